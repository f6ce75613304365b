//! Azure Container Registry: a token of Entra ID, which the registry exchanges for a refresh token of its own.

use std::time::Duration;

use serde::Deserialize;

use super::{Found, Reason, Token, form, url};
use crate::registry::exchange::{Client, authority};
use crate::registry::settings::Purpose;
use crate::registry::{Login, Secret};

/// How long the registry's refresh tokens last.
const LIFE: Duration = Duration::from_secs(3 * 3600);

/// One of Azure's clouds: its hosts, who knows its users, and what tokens for its registries are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cloud {
    /// As `AZURE_ENVIRONMENT` has it, in capitals.
    name: &'static str,
    registries: &'static str,
    storage: &'static str,
    /// Where identities are proved.
    pub(crate) authority: &'static str,
    resource: &'static str,
}

const CLOUDS: [Cloud; 4] = [
    Cloud {
        name: "AZUREPUBLICCLOUD",
        registries: ".azurecr.io",
        storage: ".core.windows.net",
        authority: "https://login.microsoftonline.com/",
        resource: "https://management.azure.com/",
    },
    Cloud {
        name: "AZURECHINACLOUD",
        registries: ".azurecr.cn",
        storage: ".core.chinacloudapi.cn",
        authority: "https://login.chinacloudapi.cn/",
        resource: "https://management.chinacloudapi.cn/",
    },
    Cloud {
        name: "AZUREUSGOVERNMENTCLOUD",
        registries: ".azurecr.us",
        storage: ".core.usgovcloudapi.net",
        authority: "https://login.microsoftonline.us/",
        resource: "https://management.usgovcloudapi.net/",
    },
    Cloud {
        name: "AZUREGERMANCLOUD",
        registries: ".azurecr.de",
        storage: ".core.cloudapi.de",
        authority: "https://login.microsoftonline.de/",
        resource: "https://management.microsoftazure.de/",
    },
];

impl Cloud {
    /// The cloud of a registry or of an account's storage.
    pub(crate) fn of_host(host: &str) -> Option<Self> {
        let is = |it: &Self| host.ends_with(it.registries) || host.ends_with(it.storage);
        CLOUDS.into_iter().find(is)
    }

    fn named(name: &str) -> Result<Self, Reason> {
        let upper = name.to_uppercase();
        let wanted = match upper.as_str() {
            "AZURECLOUD" => "AZUREPUBLICCLOUD",
            "AZUREUSGOVERNMENT" => "AZUREUSGOVERNMENTCLOUD",
            other => other,
        };
        let known = || CLOUDS.map(|it| it.name).join(", ");
        let found = CLOUDS.into_iter().find(|it| it.name == wanted);
        found.ok_or_else(|| format!("AZURE_ENVIRONMENT={name} is none of {}", known()))
    }
}

#[derive(Deserialize)]
struct Exchanged {
    refresh_token: String,
}

pub(super) async fn login(
    client: &Client,
    registry: &str,
    purpose: Purpose,
) -> Result<Option<Found>, Reason> {
    let Some(cloud) = Cloud::of_host(registry) else { return Ok(None) };
    let cloud = match client.settings.builtin.variable("AZURE_ENVIRONMENT") {
        Some(name) => Cloud::named(name)?,
        None => cloud,
    };
    let token = identity(client, cloud).await?;
    let origin = client.transport.origin(registry, purpose).await.map_err(|it| it.to_string())?;
    let to = origin.join("/oauth2/exchange").map_err(|error| error.to_string())?;
    let tenant = client.settings.builtin.variable("AZURE_TENANT_ID");
    let mut pairs = vec![
        ("grant_type", "access_token"),
        ("service", registry),
        ("access_token", &token.access_token),
    ];
    pairs.extend(tenant.map(|tenant| ("tenant", tenant)));
    let http = client.transport.client(&authority(&to), purpose).map_err(|it| it.to_string())?;
    let answer: Exchanged = client.ask(&to, form(http.post(to.clone()), &pairs)).await?;
    Ok(Some(Found::lasting(Login::Identity(Secret::new(answer.refresh_token)), LIFE)))
}

/// By client secret, workload identity or managed identity, as the variables have it.
async fn identity(client: &Client, cloud: Cloud) -> Result<Token, Reason> {
    let builtin = &client.settings.builtin;
    let of = |name: &str| builtin.variable(name);
    let known = (of("AZURE_TENANT_ID"), of("AZURE_CLIENT_ID"));
    let (secret, file) = (of("AZURE_CLIENT_SECRET"), of("AZURE_FEDERATED_TOKEN_FILE"));
    match (known, secret, file) {
        ((Some(tenant), Some(id)), Some(secret), _) => {
            of_client(client, cloud, tenant, &[("client_id", id), ("client_secret", secret)]).await
        }
        ((Some(tenant), Some(id)), None, Some(file)) => {
            let assertion = tokio::fs::read_to_string(file)
                .await
                .map_err(|error| format!("AZURE_FEDERATED_TOKEN_FILE={file}: {error}"))?;
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            let pairs = [
                ("client_id", id),
                ("client_assertion_type", kind),
                ("client_assertion", assertion.trim()),
            ];
            of_client(client, cloud, tenant, &pairs).await
        }
        ((_, id), _, _) => managed(client, cloud, id).await,
    }
}

async fn of_client(
    client: &Client,
    cloud: Cloud,
    tenant: &str,
    proof: &[(&str, &str)],
) -> Result<Token, Reason> {
    let authority = client.settings.builtin.variable("AZURE_AUTHORITY_HOST");
    let authority = authority.unwrap_or(cloud.authority);
    let url = url(&format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/')))?;
    let scope = format!("{}.default", cloud.resource);
    let mut pairs = vec![("grant_type", "client_credentials"), ("scope", scope.as_str())];
    pairs.extend(proof);
    client.ask(&url, form(client.service(&url)?.post(url.clone()), &pairs)).await
}

/// Of the machine: the endpoint that App Service and Container Apps name, else the metadata server.
async fn managed(client: &Client, cloud: Cloud, id: Option<&str>) -> Result<Token, Reason> {
    let builtin = &client.settings.builtin;
    let (mut url, header) =
        match (builtin.variable("IDENTITY_ENDPOINT"), builtin.variable("IDENTITY_HEADER")) {
            (Some(endpoint), Some(header)) => {
                (url(&format!("{endpoint}?api-version=2019-08-01"))?, ("X-IDENTITY-HEADER", header))
            }
            _ => {
                let host = builtin.variable("AZURE_POD_IDENTITY_AUTHORITY_HOST");
                let host = host.unwrap_or("http://169.254.169.254").trim_end_matches('/');
                let path = "metadata/identity/oauth2/token?api-version=2018-02-01";
                (url(&format!("{host}/{path}"))?, ("Metadata", "true"))
            }
        };
    url.query_pairs_mut().append_pair("resource", cloud.resource);
    if let Some(id) = id {
        url.query_pairs_mut().append_pair("client_id", id);
    }
    let request = client.service(&url)?.get(url.clone()).header(header.0, header.1);
    client.ask(&url, request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_azure() {
        for (host, want) in [
            ("team.azurecr.io", "AZUREPUBLICCLOUD"),
            ("team.azurecr.us", "AZUREUSGOVERNMENTCLOUD"),
            ("team.blob.core.chinacloudapi.cn", "AZURECHINACLOUD"),
            ("azurecr.io", ""),
            ("team.azurecr.io.evil.example", ""),
            ("mcr.microsoft.com", ""),
        ] {
            assert_eq!(Cloud::of_host(host).map_or("", |cloud| cloud.name), want, "{host}");
        }
    }

    #[test]
    fn names_of_clouds() {
        for (name, want) in [
            ("AzureUSGovernment", Ok(".azurecr.us")),
            ("azurepubliccloud", Ok(".azurecr.io")),
            ("AzureCloud", Ok(".azurecr.io")),
            ("moon", Err(())),
        ] {
            let found = Cloud::named(name).map(|cloud| cloud.registries).map_err(drop);
            assert_eq!(found, want, "{name}");
        }
    }
}
