//! Built-in helpers, with a server that is metadata server, token services and registry in one.
//!
//! The registry's own name leads to it through a proxy; it speaks plain HTTP, which is asked for.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::fake::{Answer, Fake};
use super::impatient;
use crate::registry::settings::Proxies;
use crate::registry::{Builtin, Helper, Registry, RegistryError, Secret, Settings};

/// A client to which `registry` is the fake.
fn client(
    fake: &Fake,
    registry: &str,
    variables: &[(&str, &str)],
    google: Option<&str>,
) -> Registry {
    let own = |text: &str| text.replace("FAKE", &fake.host);
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), own(value)));
    let builtin = Builtin {
        helpers: Helper::ALL.to_vec(),
        variables: variables.collect(),
        google: google.map(|text| ("/adc.json".into(), Secret::new(own(text)))),
    };
    let proxies = Proxies {
        http: Some(format!("http://{}", fake.host)),
        https: Some("http://127.0.0.1:1".to_owned()),
        exceptions: None,
    };
    let insecure_registries = vec![registry.to_owned()];
    Registry::new(Settings { builtin, proxies, insecure_registries, ..impatient() }).unwrap()
}

fn check(registry: &Registry, host: &str) -> Result<(), RegistryError> {
    registry.check_push(&format!("{host}/a:1").parse().unwrap())
}

fn json(text: &str) -> Answer {
    Answer::status(200).body(text.as_bytes())
}

/// The last request that begins so: its line with the query, and its body.
fn asked(fake: &Fake, start: &str) -> (String, String) {
    let state = fake.state();
    let line = |it: &super::fake::Seen| format!("{} {}", it.method, it.path);
    let seen = state.seen.iter().rfind(|it| line(it).starts_with(start));
    let seen = seen.unwrap_or_else(|| panic!("nobody asked for {start}"));
    (line(seen), String::from_utf8_lossy(&seen.body).into_owned())
}

#[test]
fn azure_by_secret_by_workload_and_by_machine() {
    const HOST: &str = "team.azurecr.io";
    let dir = tempfile::tempdir().unwrap();
    let federated = dir.path().join("token");
    std::fs::write(&federated, "federated\n").unwrap();
    let file = federated.to_str().unwrap();
    let entra = ("AZURE_AUTHORITY_HOST", "http://FAKE/");
    let who = [("AZURE_TENANT_ID", "T"), ("AZURE_CLIENT_ID", "C")];
    for (variables, request, want) in [
        (
            vec![entra, who[0], who[1], ("AZURE_CLIENT_SECRET", "canary&")],
            "POST /T/oauth2/v2.0/token",
            "client_id=C&client_secret=canary%26",
        ),
        (
            vec![entra, who[0], who[1], ("AZURE_FEDERATED_TOKEN_FILE", file)],
            "POST /T/oauth2/v2.0/token",
            "client_assertion=federated",
        ),
        (
            vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://FAKE"), who[1]],
            "GET /metadata/identity/oauth2/token",
            "resource=https%3A%2F%2Fmanagement.azure.com%2F&client_id=C",
        ),
        (
            vec![
                ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://FAKE"),
                ("AZURE_ENVIRONMENT", "AzureChinaCloud"),
            ],
            "GET /metadata/identity/oauth2/token",
            "resource=https%3A%2F%2Fmanagement.chinacloudapi.cn%2F",
        ),
        (
            vec![("IDENTITY_ENDPOINT", "http://FAKE/msi"), ("IDENTITY_HEADER", "h")],
            "GET /msi",
            "api-version=2019-08-01",
        ),
    ] {
        let fake = Fake::start();
        fake.state().realm = format!("http://{HOST}/token");
        fake.state().token = Some("access".to_owned());
        fake.fault(request, json(r#"{"access_token":"entra","expires_in":"3599"}"#));
        fake.fault("POST /oauth2/exchange", Answer::status(503));
        fake.fault("POST /oauth2/exchange", json(r#"{"refresh_token":"canary"}"#));
        let registry = client(&fake, HOST, &variables, None);
        check(&registry, HOST).unwrap();
        let (line, body) = asked(&fake, request);
        assert!(line.contains(want) || body.contains(want), "{want}: {line} {body}");
        let (_, body) = asked(&fake, "POST /oauth2/exchange");
        assert!(body.starts_with("grant_type=access_token&service=team.azurecr.io"), "{body}");
        assert!(body.contains("&access_token=entra"), "{body}");
    }
}

/// A key that nobody uses; made for this test.
fn key() -> String {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    key.serialize_pem()
}

#[test]
fn google_by_file_and_by_metadata_server() {
    const HOST: &str = "europe-docker.pkg.dev";
    let dir = tempfile::tempdir().unwrap();
    let subject = dir.path().join("subject");
    std::fs::write(&subject, r#"{"id_token":"subject"}"#).unwrap();
    let account = serde_json::json!({
        "type": "service_account", "client_email": "e@x", "private_key": key(),
        "private_key_id": "k", "token_uri": "http://FAKE/sa"
    });
    let user = serde_json::json!({
        "type": "authorized_user", "client_id": "i", "client_secret": "s",
        "refresh_token": "r", "token_uri": "http://FAKE/user"
    });
    let workload = serde_json::json!({
        "type": "external_account", "audience": "//iam/x", "subject_token_type": "t",
        "token_url": "http://FAKE/sts",
        "service_account_impersonation_url": "http://FAKE/impersonate",
        "credential_source": {"file": subject,
            "format": {"type": "json", "subject_token_field_name": "id_token"}}
    });
    for (adc, variables, request, want) in [
        (Some(account), vec![], "POST /sa", "&assertion="),
        (Some(user), vec![], "POST /user", "refresh_token=r"),
        (Some(workload), vec![], "POST /sts", "subject_token=subject"),
        (
            None,
            vec![("GCE_METADATA_HOST", "FAKE")],
            "GET /computeMetadata/v1/instance/service-accounts/default/token",
            "",
        ),
    ] {
        let fake = Fake::start();
        fake.fault(request, Answer::status(500));
        fake.fault(request, json(r#"{"access_token":"canary","expires_in":3599}"#));
        fake.fault("POST /impersonate", json(r#"{"accessToken":"canary"}"#));
        fake.state().login = Some(BASE64_STANDARD.encode("oauth2accesstoken:canary"));
        fake.state().token = Some("access".to_owned());
        fake.state().realm = format!("http://{HOST}/token");
        let text = adc.map(|it| it.to_string());
        let registry = client(&fake, HOST, &variables, text.as_deref());
        check(&registry, HOST).unwrap();
        let (_, body) = asked(&fake, request);
        assert!(body.contains(want), "{want}: {body}");
    }
}

#[test]
fn a_helper_without_a_login_is_no_failure_until_one_is_needed() {
    const HOST: &str = "eu.gcr.io";
    for wants_login in [false, true] {
        let fake = Fake::start();
        let metadata = "GET /computeMetadata/";
        fake.fault(metadata, Answer::status(404).body(b"{\"error\":\"no account\"}"));
        fake.state().token = wants_login.then(|| "access".to_owned());
        fake.state().login = Some("x".to_owned());
        fake.state().realm = format!("http://{HOST}/token");
        let registry = client(&fake, HOST, &[("GCE_METADATA_HOST", "FAKE")], None);
        let done = check(&registry, HOST);
        match wants_login {
            false => done.unwrap(),
            true => {
                let hint = done.unwrap_err().hint().unwrap_or_default();
                assert!(hint.contains("google: ") && hint.contains("no account"), "{hint}");
            }
        }
        assert_eq!(fake.count(metadata), 1, "nobody is asked twice");
    }
}

#[test]
fn no_helper_is_asked_for_the_registry_of_another() {
    for (host, variables) in [
        ("r.example", &[("GCE_METADATA_HOST", "FAKE"), ("IDENTITY_ENDPOINT", "http://FAKE/msi")]),
        ("gcr.io.evil.example", &[("GCE_METADATA_HOST", "FAKE"), ("IDENTITY_HEADER", "h")]),
    ] {
        let fake = Fake::start();
        let registry = client(&fake, host, variables, None);
        check(&registry, host).unwrap();
        assert_eq!(fake.lines(), ["POST /v2/a/blobs/uploads/", "DELETE /v2/a/blobs/uploads/1"]);
    }
}

#[test]
fn a_login_in_variables_goes_to_its_registry() {
    const HOST: &str = "r.example";
    let variables = [("KANIKO_R_EXAMPLE_USER", "u"), ("KANIKO_R_EXAMPLE_PASSWORD", "canary")];
    for (host, want) in [(HOST, true), ("s.example.org", false)] {
        let fake = Fake::start();
        fake.state().token = Some("access".to_owned());
        fake.state().login = Some(BASE64_STANDARD.encode("u:canary"));
        fake.state().realm = format!("http://{host}/token");
        let registry = client(&fake, host, &variables, None);
        assert_eq!(check(&registry, host).is_ok(), want, "{host}");
    }
}
