//! `WWW-Authenticate`, as RFC 9110 section 11.6.1 has it and registries write it.

/// What a registry asks for with a 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from elsewhere.
    Bearer {
        /// Where tokens are had.
        realm: String,
        /// What the token is for.
        service: Option<String>,
        /// What it has to allow.
        scope: Option<String>,
    },
}

/// All challenges in the values of the header, in order; unknown schemes are left out.
pub(crate) fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    headers.into_iter().flat_map(parse_one).collect()
}

fn parse_one(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',', '\t']);
    while !rest.is_empty() {
        let (scheme, after) = token(rest);
        if scheme.is_empty() {
            break; // no header that this grammar knows
        }
        let (parameters, after) = parameters(after);
        challenges.extend(challenge(scheme, &parameters));
        rest = after.trim_start_matches([' ', ',', '\t']);
    }
    challenges
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let of = |name: &str| {
        parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone())
    };
    match scheme.to_ascii_lowercase().as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: of("realm")?,
            service: of("service"),
            scope: of("scope"),
        }),
        _ => None,
    }
}

/// `name=value` pairs up to the next scheme, which is a token that no `=` follows.
fn parameters(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        let start = rest.trim_start_matches([' ', ',', '\t']);
        let (name, after) = token(start);
        let Some(value) = after.trim_start().strip_prefix('=') else { return (found, start) };
        if name.is_empty() {
            return (found, "");
        }
        let (value, after) = value_of(value.trim_start());
        found.push((name.to_owned(), value));
        rest = after;
    }
}

fn token(text: &str) -> (&str, &str) {
    let word = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !word(c)).unwrap_or(text.len()))
}

/// A quoted string or a token; bare values are read up to the comma, as some registries send URLs bare.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([',', ' ']).unwrap_or(text.len()));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(header: &str) -> String {
        let show = |challenge: &Challenge| match challenge {
            Challenge::Basic => "basic".to_owned(),
            Challenge::Bearer { realm, service, scope } => format!(
                "bearer {realm} {} {}",
                service.as_deref().unwrap_or("-"),
                scope.as_deref().unwrap_or("-")
            ),
        };
        parse([header]).iter().map(show).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn challenges() {
        for (header, want) in [
            ("", ""),
            (",,,", ""),
            ("=", ""),
            ("Basic", "basic"),
            ("basic realm=\"a, b=c\"", "basic"),
            ("Negotiate, Basic realm=x", "basic"),
            ("Negotiate abc==, Basic realm=x", "basic"),
            ("Bearer", ""),
            ("Bearer service=\"s\"", ""),
            (
                "Bearer realm=\"https://a.example/t\",service=\"s\",scope=\"repository:a:pull,push\"",
                "bearer https://a.example/t s repository:a:pull,push",
            ),
            ("BEARER Realm = https://a.example/t , Service=s", "bearer https://a.example/t s -"),
            ("Bearer realm=\"a\\\"b\", Basic realm=\"r\"", "bearer a\"b - -; basic"),
            ("Basic realm=\"r\", Bearer realm=\"t\"", "basic; bearer t - -"),
            ("Bearer realm=\"open", "bearer open - -"),
            ("Bearer realm=\"\u{e9}\"x\u{e9}", "bearer \u{e9} - -"),
        ] {
            assert_eq!(shown(header), want, "{header}");
        }
    }
}
