//! Secrets of the build that log in where ADD fetches from; Docker gives them their names.

use tracer::Hidden;

use super::run_mounts::MountSources;
use crate::context::git::{GitAccess, GitSource, Pass};
use crate::context::http::{self, FetchSettings};
use crate::registry::Secret;
use crate::report::Failure;

impl MountSources {
    /// The same settings, with the secret for the URL's host if there is one: `HTTP_AUTH_TOKEN_<host>` goes before
    /// the whole header `HTTP_AUTH_HEADER_<host>`.
    pub(super) fn fetching(
        &self,
        url: &str,
        settings: &FetchSettings,
    ) -> Result<FetchSettings, Failure> {
        Ok(FetchSettings { authorization: self.authorization(url)?, ..settings.clone() })
    }

    fn authorization(&self, url: &str) -> Result<Option<Secret>, Failure> {
        let Some(host) = http::host(url) else { return Ok(None) };
        if let Some(token) = self.line(&format!("HTTP_AUTH_TOKEN_{host}"))? {
            return Ok(Some(Secret::new(format!("Bearer {}", token.expose()))));
        }
        self.line(&format!("HTTP_AUTH_HEADER_{host}"))
    }

    /// The same access, with the secret for the repository if there is one: that of its host,
    /// `GIT_AUTH_HEADER.<host>`, goes before that of all hosts, and a header before a token.
    pub(super) fn cloning(
        &self,
        source: &GitSource,
        access: GitAccess,
    ) -> Result<GitAccess, Failure> {
        Ok(match self.pass(source)? {
            Some(pass) => access.with_login(source, &pass),
            None => access,
        })
    }

    fn pass(&self, source: &GitSource) -> Result<Option<Pass>, Failure> {
        let Some(host) = source.authority() else { return Ok(None) };
        for suffix in [format!(".{host}"), String::new()] {
            if let Some(header) = self.line(&format!("GIT_AUTH_HEADER{suffix}"))? {
                return Ok(Some(Pass::Header(header)));
            }
            if let Some(password) = self.line(&format!("GIT_AUTH_TOKEN{suffix}"))? {
                let user = "x-access-token".to_owned();
                return Ok(Some(Pass::User { user, password }));
            }
        }
        Ok(None)
    }

    /// A secret that goes into a header.
    fn line(&self, id: &str) -> Result<Option<Secret>, Failure> {
        let Some(Hidden(bytes)) = self.secrets.get(id) else { return Ok(None) };
        let text = std::str::from_utf8(bytes).ok().map(str::trim_end);
        match text.filter(|text| !text.contains(char::is_control)) {
            Some(text) => Ok(Some(Secret::new(text))),
            None => Err(Failure::new(format!("the secret {id} is no text of one line"))),
        }
    }
}
