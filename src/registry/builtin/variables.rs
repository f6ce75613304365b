//! Logins in variables: kaniko's own for any registry, and those of a GitLab job.

use super::{Builtin, Found};
use crate::registry::{Login, Secret};

/// `KANIKO_<HOST>_USER` and `KANIKO_<HOST>_PASSWORD`.
///
/// The host is in capitals, with `_` for what no name of a variable can hold. With its port first, then
/// without, then each of the domains it is in: `R_EXAMPLE_COM`, `EXAMPLE_COM`, `COM`.
pub(super) fn of_registry(builtin: &Builtin, registry: &str) -> Option<Found> {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let domains = host.match_indices('.').map(|(at, _)| &host[at + 1..]);
    [registry, host].into_iter().chain(domains).find_map(|name| {
        let name: String = name.chars().map(as_in_a_variable).collect();
        let user = builtin.variables.get(&format!("KANIKO_{name}_USER"))?;
        let password = builtin.variables.get(&format!("KANIKO_{name}_PASSWORD"))?;
        Some(basic(user, password))
    })
}

fn as_in_a_variable(c: char) -> char {
    if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }
}

/// `CI_REGISTRY_USER` and `CI_REGISTRY_PASSWORD`, for `CI_REGISTRY` alone.
pub(super) fn of_gitlab(builtin: &Builtin, registry: &str) -> Option<Found> {
    if builtin.variable("CI_REGISTRY") != Some(registry) {
        return None;
    }
    let user = builtin.variable("CI_REGISTRY_USER")?;
    Some(basic(user, builtin.variable("CI_REGISTRY_PASSWORD")?))
}

fn basic(user: &str, password: &str) -> Found {
    Found::forever(Login::Basic { user: user.to_owned(), password: Secret::new(password) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(found: Option<Found>) -> String {
        match found.map(|it| it.login) {
            Some(Login::Basic { user, password }) => format!("{user}:{}", password.expose()),
            Some(Login::Identity(_) | Login::Registry(_)) | None => "-".to_owned(),
        }
    }

    fn with(variables: &str) -> Builtin {
        let pairs = variables.split_whitespace().filter_map(|it| it.split_once('='));
        let variables = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Builtin { variables, ..Builtin::default() }
    }

    #[test]
    fn the_most_special_name_counts() {
        let it = with(
            "KANIKO_R_EXAMPLE_COM_USER=r KANIKO_R_EXAMPLE_COM_PASSWORD=1 \
             KANIKO_EXAMPLE_COM_USER=e KANIKO_EXAMPLE_COM_PASSWORD=2 \
             KANIKO_R_EXAMPLE_COM_5000_USER=p KANIKO_R_EXAMPLE_COM_5000_PASSWORD=3 \
             KANIKO_MY_HOST_USER=m KANIKO_MY_HOST_PASSWORD= KANIKO_ORG_USER=half",
        );
        for (registry, want) in [
            ("r.example.com", "r:1"),
            ("r.example.com:5000", "p:3"),
            ("r.example.com:5001", "r:1"),
            ("s.example.com", "e:2"),
            ("my-host", "m:"),
            ("other.com", "-"),
            ("r.example.org", "-"),
        ] {
            assert_eq!(shown(of_registry(&it, registry)), want, "{registry}");
        }
    }

    #[test]
    fn a_job_of_gitlab_may_use_its_own_registry() {
        let all = "CI_REGISTRY=r.example:5050 CI_REGISTRY_USER=u CI_REGISTRY_PASSWORD=p";
        for (variables, registry, want) in [
            (all, "r.example:5050", "u:p"),
            (all, "r.example", "-"),
            ("CI_REGISTRY=r.example CI_REGISTRY_USER=u", "r.example", "-"),
            ("CI_REGISTRY_USER=u CI_REGISTRY_PASSWORD=p", "r.example", "-"),
        ] {
            assert_eq!(
                shown(of_gitlab(&with(variables), registry)),
                want,
                "{variables} {registry}"
            );
        }
    }
}
