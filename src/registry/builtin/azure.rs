//! Azure Container Registry: a token of Entra ID, which the registry exchanges for a refresh token of its own.

use std::time::Duration;

use serde::Deserialize;

use super::{Found, Reason, Token, form, url};
use crate::registry::exchange::{Client, authority};
use crate::registry::settings::Purpose;
use crate::registry::{Login, Secret};

/// What the token is for.
const RESOURCE: &str = "https://management.azure.com/";

/// How long the registry's refresh tokens last.
const LIFE: Duration = Duration::from_secs(3 * 3600);

#[derive(Deserialize)]
struct Exchanged {
    refresh_token: String,
}

pub(super) async fn login(
    client: &Client,
    registry: &str,
    purpose: Purpose,
) -> Result<Option<Found>, Reason> {
    if !is_azure(registry) {
        return Ok(None);
    }
    let token = identity(client).await?;
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

fn is_azure(registry: &str) -> bool {
    [".azurecr.io", ".azurecr.cn", ".azurecr.de", ".azurecr.us"]
        .iter()
        .any(|end| registry.ends_with(end))
}

/// By client secret, workload identity or managed identity, as the variables have it.
async fn identity(client: &Client) -> Result<Token, Reason> {
    let builtin = &client.settings.builtin;
    let of = |name: &str| builtin.variable(name);
    let known = (of("AZURE_TENANT_ID"), of("AZURE_CLIENT_ID"));
    let (secret, file) = (of("AZURE_CLIENT_SECRET"), of("AZURE_FEDERATED_TOKEN_FILE"));
    match (known, secret, file) {
        ((Some(tenant), Some(id)), Some(secret), _) => {
            of_client(client, tenant, &[("client_id", id), ("client_secret", secret)]).await
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
            of_client(client, tenant, &pairs).await
        }
        ((_, id), _, _) => managed(client, id).await,
    }
}

async fn of_client(client: &Client, tenant: &str, proof: &[(&str, &str)]) -> Result<Token, Reason> {
    let authority = client.settings.builtin.variable("AZURE_AUTHORITY_HOST");
    let authority = authority.unwrap_or("https://login.microsoftonline.com/");
    let url = url(&format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/')))?;
    let scope = format!("{RESOURCE}.default");
    let mut pairs = vec![("grant_type", "client_credentials"), ("scope", scope.as_str())];
    pairs.extend(proof);
    client.ask(&url, form(client.service(&url)?.post(url.clone()), &pairs)).await
}

/// Of the machine: the endpoint that App Service and Container Apps name, else the metadata server.
async fn managed(client: &Client, id: Option<&str>) -> Result<Token, Reason> {
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
    url.query_pairs_mut().append_pair("resource", RESOURCE);
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
    fn registries_of_azure() {
        for (registry, want) in [
            ("team.azurecr.io", true),
            ("team.azurecr.us", true),
            ("azurecr.io", false),
            ("team.azurecr.io.evil.example", false),
            ("mcr.microsoft.com", false),
        ] {
            assert_eq!(is_azure(registry), want, "{registry}");
        }
    }
}
