//! Amazon ECR: a password for twelve hours, for credentials of AWS.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;

use super::{Builtin, Found, Reason, aws, url};
use crate::registry::exchange::Client;
use crate::registry::settings::Purpose;
use crate::registry::{Login, Secret};

/// How long the service's passwords last.
const LIFE: Duration = Duration::from_secs(12 * 3600);

/// The service that hands out passwords for a registry.
#[derive(Debug, PartialEq, Eq)]
struct Service {
    /// As requests to it are signed.
    name: &'static str,
    region: String,
    endpoint: String,
    /// The operation, as the service wants it in a header.
    target: &'static str,
    body: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    authorization_data: OneOrMany,
}

/// The private service answers with a list, the public one with its only element.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Password>),
    One(Password),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Password {
    authorization_token: String,
}

pub(super) async fn login(
    client: &Client,
    registry: &str,
    purpose: Purpose,
) -> Result<Option<Found>, Reason> {
    let Some(service) = service(&client.settings.builtin, registry) else { return Ok(None) };
    if service.name == "ecr-public" && purpose == Purpose::Pull {
        return Ok(None); // everybody may
    }
    let credentials = aws::credentials(client, &service.region).await?;
    let endpoint = url(&service.endpoint)?;
    let mut request = client
        .service(&endpoint)?
        .post(endpoint.clone())
        .header(CONTENT_TYPE, "application/x-amz-json-1.1")
        .header("x-amz-target", service.target)
        .body(service.body);
    for (name, value) in signature(&service, credentials)? {
        request = request.header(name, value);
    }
    let answer: Answer = client.ask(&endpoint, request).await?;
    let password = match answer.authorization_data {
        OneOrMany::Many(list) => list.into_iter().next(),
        OneOrMany::One(one) => Some(one),
    };
    let token = password.ok_or("ECR answered with no password")?.authorization_token;
    Ok(Some(Found::lasting(decode(&token).ok_or("ECR's password is none")?, LIFE)))
}

/// `user:password` in base64.
fn decode(token: &str) -> Option<Login> {
    let text = String::from_utf8(BASE64_STANDARD.decode(token).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Login::Basic { user: user.to_owned(), password: Secret::new(password) })
}

/// The headers that say who asks.
fn signature(service: &Service, credentials: Credentials) -> Result<Vec<(String, String)>, Reason> {
    let told = |error: &dyn std::error::Error| format!("could not sign the request: {error}");
    let identity = credentials.into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&service.region)
        .name(service.name)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| told(&error))?
        .into();
    let headers =
        [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", service.target)];
    let body = SignableBody::Bytes(service.body.as_bytes());
    let request = SignableRequest::new("POST", &service.endpoint, headers.into_iter(), body)
        .map_err(|error| told(&error))?;
    let (signed, _) = sign(request, &params).map_err(|error| told(&error))?.into_parts();
    Ok(signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// `ACCOUNT.dkr.ecr[-fips].REGION.SUFFIX`, `ACCOUNT.dkr-ecr[-fips].REGION.on.aws`, or the public one.
fn service(builtin: &Builtin, registry: &str) -> Option<Service> {
    let named = |variable: &str, endpoint: String| {
        builtin.variable(variable).map_or(endpoint, |it| it.trim_end_matches('/').to_owned() + "/")
    };
    if matches!(registry, "public.ecr.aws" | "ecr-public.aws.com") {
        let endpoint = "https://api.ecr-public.us-east-1.amazonaws.com/".to_owned();
        return Some(Service {
            name: "ecr-public",
            region: "us-east-1".to_owned(),
            endpoint: named("AWS_ENDPOINT_URL_ECR_PUBLIC", endpoint),
            target: "SpencerFrontendService.GetAuthorizationToken",
            body: "{}",
        });
    }
    let (account, rest) = registry.split_once('.')?;
    let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    let rest = rest.strip_prefix("dkr.ecr").or_else(|| rest.strip_prefix("dkr-ecr"))?;
    let (fips, rest) = match rest.strip_prefix("-fips") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (region, suffix) = rest.strip_prefix('.')?.split_once('.')?;
    let known = [
        "amazonaws.com",
        "amazonaws.com.cn",
        "on.aws",
        "on.amazonwebservices.com.cn",
        "amazonaws.eu",
        "c2s.ic.gov",
        "sc2s.sgov.gov",
    ];
    if !is_account || region.is_empty() || !known.contains(&suffix) {
        return None;
    }
    let domain = match suffix {
        "on.aws" => "amazonaws.com",
        "on.amazonwebservices.com.cn" => "amazonaws.com.cn",
        other => other,
    };
    let host = if fips { "ecr-fips" } else { "api.ecr" };
    Some(Service {
        name: "ecr",
        region: region.to_owned(),
        endpoint: named("AWS_ENDPOINT_URL_ECR", format!("https://{host}.{region}.{domain}/")),
        target: "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
        body: "{}",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_of_amazon_and_who_has_their_passwords() {
        for (registry, want) in [
            (
                "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
                "ecr eu-west-1 https://api.ecr.eu-west-1.amazonaws.com/",
            ),
            (
                "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
                "ecr us-gov-west-1 https://ecr-fips.us-gov-west-1.amazonaws.com/",
            ),
            (
                "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
                "ecr cn-north-1 https://api.ecr.cn-north-1.amazonaws.com.cn/",
            ),
            (
                "123456789012.dkr-ecr.us-east-2.on.aws",
                "ecr us-east-2 https://api.ecr.us-east-2.amazonaws.com/",
            ),
            (
                "public.ecr.aws",
                "ecr-public us-east-1 https://api.ecr-public.us-east-1.amazonaws.com/",
            ),
            ("12345678901.dkr.ecr.eu-west-1.amazonaws.com", ""),
            ("x23456789012.dkr.ecr.eu-west-1.amazonaws.com", ""),
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example", ""),
            ("123456789012.dkr.ecr.eu-west-1.evil.example", ""),
            ("123456789012.dkr.ecr.amazonaws.com", ""),
            ("r.example", ""),
        ] {
            let found = service(&Builtin::default(), registry);
            let shown = found.map(|it| format!("{} {} {}", it.name, it.region, it.endpoint));
            assert_eq!(shown.unwrap_or_default(), want, "{registry}");
        }
    }
}
