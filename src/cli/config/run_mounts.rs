//! Secrets, agents and caches for the mounts of RUN steps.
//!
//! Secrets are read here, before the first step: a build in place may overwrite or remove their files.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracer::Hidden;

use super::Surroundings;
use crate::build::MountSources;
use crate::cli::flags::RunMountFlags;
use crate::dockerfile::comma_separated;
use crate::report::Failure;
use crate::step::{AgentSource, KeyRing};

/// The longest secret, as in Docker.
const LONGEST: u64 = 500 << 10;

/// What mounts are made of.
///
/// # Errors
/// Values that mean nothing, secrets that cannot be read, agents that are not there.
pub(super) fn sources(
    flags: &RunMountFlags,
    around: &Surroundings,
    build_args: &BTreeMap<String, String>,
    kaniko_dir: &Path,
) -> Result<MountSources, Failure> {
    Ok(MountSources {
        secrets: secrets(&flags.secret, around)?,
        agents: agents(&flags.ssh, around)?,
        cache_namespace: super::buildkit::cache_namespace(build_args),
        caches: match flags.cache_dir.as_str() {
            "" => kaniko_dir.to_owned(),
            dir => around.here.join(dir),
        },
        cache_limit: match flags.cache_mount_limit.as_str() {
            "" => None,
            text => Some(super::size("--cache-mount-limit", text)?),
        },
        shared: None,
    })
}

fn secrets(given: &[String], around: &Surroundings) -> Result<BTreeMap<String, Hidden>, Failure> {
    let mut secrets = BTreeMap::new();
    for text in given {
        let wrong = |why: &str| {
            Failure::new(format!("--secret={text}: {why}"))
                .hint("write id=NAME,src=FILE or id=NAME,env=VARIABLE")
        };
        let Source { id, from } = source(text).map_err(|why| wrong(&why))?;
        let content = match from {
            From::File(path) => read(&around.here.join(path), &wrong)?,
            From::Variable(name) => variable(&name, around).ok_or_else(|| {
                wrong(&format!("the environment of the executor has no variable {name}"))
            })?,
            From::Either => match variable(&id, around) {
                Some(content) => content,
                None => read(&around.here.join(&id), &wrong)?,
            },
        };
        if secrets.insert(id, content).is_some() {
            return Err(wrong("the same id twice"));
        }
    }
    Ok(secrets)
}

fn variable(name: &str, around: &Surroundings) -> Option<Hidden> {
    around.env.get(name).map(|value| Hidden(value.as_bytes().into()))
}

fn read(path: &Path, wrong: &impl Fn(&str) -> Failure) -> Result<Hidden, Failure> {
    let failed = |error: std::io::Error| wrong(&format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut content = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > LONGEST {
        return Err(wrong(&format!("{} has more than 500 KiB", path.display())));
    }
    Ok(Hidden(content.into()))
}

#[derive(Debug, PartialEq, Eq)]
struct Source {
    id: String,
    from: From,
}

#[derive(Debug, PartialEq, Eq)]
enum From {
    File(PathBuf),
    Variable(String),
    Either,
}

fn source(text: &str) -> Result<Source, String> {
    let (mut id, mut file, mut env, mut kind) = (None, None, None, None);
    for field in comma_separated(text)? {
        let (key, value) =
            field.split_once('=').ok_or_else(|| format!("{field:?} is no key=value pair"))?;
        match key.to_ascii_lowercase().as_str() {
            "id" => id = Some(value.to_owned()),
            "src" | "source" => file = Some(value.to_owned()),
            "env" => env = Some(value.to_owned()),
            "type" if matches!(value, "file" | "env") => kind = Some(value.to_owned()),
            "type" => return Err(format!("{value:?} is no type of a secret: use file or env")),
            _ => return Err(format!("there is no key {key:?}")),
        }
    }
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let id = given(id).ok_or("it has no id")?;
    let from = match (given(file), given(env), kind.as_deref()) {
        (Some(_), Some(_), _) => return Err("both src and env".to_owned()),
        (None, Some(_), Some("file")) => return Err("env does not go with type=file".to_owned()),
        // As in Docker, where `src` then names a variable.
        (Some(name), None, Some("env")) | (None, Some(name), _) => From::Variable(name),
        (None, None, Some("env")) => From::Variable(id.clone()),
        (Some(path), None, _) => From::File(path.into()),
        (None, None, Some("file")) => From::File(id.clone().into()),
        (None, None, _) => From::Either,
    };
    Ok(Source { id, from })
}

fn agents(
    given: &[String],
    around: &Surroundings,
) -> Result<BTreeMap<String, AgentSource>, Failure> {
    let mut agents = BTreeMap::new();
    for text in given {
        let wrong = |why: &str| Failure::new(format!("--ssh={text}: {why}"));
        let (id, places) = text.split_once('=').unwrap_or((text, ""));
        let places = match places {
            "" => around.variable("SSH_AUTH_SOCK").ok_or_else(|| {
                wrong("the environment of the executor has no SSH_AUTH_SOCK")
                    .hint("start an ssh-agent, or name its socket or a key: --ssh=default=SOCKET")
            })?,
            places => places,
        };
        if places.split(',').any(|place| place.starts_with("raw=")) {
            return Err(wrong("raw sockets are not passed on, only what lists keys and signs"));
        }
        let places: Vec<PathBuf> = places.split(',').map(|place| around.here.join(place)).collect();
        let agent = agent(&places, &wrong)?;
        let id = if id.is_empty() { "default" } else { id };
        if agents.insert(id.to_owned(), agent).is_some() {
            return Err(wrong("the same id twice"));
        }
    }
    Ok(agents)
}

/// One socket, or the keys of files.
fn agent(places: &[PathBuf], wrong: &impl Fn(&str) -> Failure) -> Result<AgentSource, Failure> {
    let mut keys = Vec::new();
    for place in places {
        let failed = |error: std::io::Error| wrong(&format!("{}: {error}", place.display()));
        if std::fs::metadata(place).map_err(failed)?.file_type().is_socket() {
            if places.len() > 1 {
                return Err(wrong("a socket goes alone"));
            }
            return Ok(AgentSource::Socket(place.clone()));
        }
        let key = read(place, wrong)?.0.to_vec();
        keys.push(key);
    }
    let name = places.first().map(|place| place.display().to_string()).unwrap_or_default();
    let keys = KeyRing::parse(&keys).map_err(|error| wrong(&format!("{name}: {error}")))?;
    Ok(AgentSource::Keys(Arc::new(keys)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(env: &[(&str, &str)], here: &Path) -> Surroundings {
        Surroundings {
            env: env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            here: here.to_owned(),
            executable: None,
            now: String::new(),
        }
    }

    #[test]
    fn where_a_secret_comes_from() {
        let file = |path: &str| Ok(From::File(path.into()));
        let variable = |name: &str| Ok(From::Variable(name.to_owned()));
        for (text, want) in [
            ("id=a", Ok(From::Either)),
            ("id=a,src=/f", file("/f")),
            ("type=file,id=a,source=f", file("f")),
            ("id=a,type=file", file("a")),
            ("id=a,env=V", variable("V")),
            ("id=a,type=env,src=V", variable("V")),
            ("id=a,type=env", variable("a")),
            ("\"id=a\",\"src=/with,comma\"", file("/with,comma")),
            ("src=/f", Err("it has no id")),
            ("id=a,src=/f,env=V", Err("both src and env")),
            ("id=a,type=file,env=V", Err("env does not go with type=file")),
            ("id=a,type=x", Err("\"x\" is no type of a secret: use file or env")),
            ("id=a,mode=4", Err("there is no key \"mode\"")),
            ("a", Err("\"a\" is no key=value pair")),
            ("", Err("the value is empty")),
        ] {
            let found = source(text).map(|source| source.from);
            assert_eq!(found, want.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn secrets_are_read_and_do_not_print() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("file"), "from the file").expect("written");
        let long = vec![b'x'; 500 << 10 | 1];
        std::fs::write(dir.path().join("long"), long).expect("written");
        let around = around(&[("VARIABLE", "from the variable")], dir.path());
        let read = |text: &str| {
            let secrets =
                secrets(&[text.to_owned()], &around).map_err(|error| error.to_string())?;
            assert!(!format!("{secrets:?}").contains("from"), "{secrets:?}");
            Ok::<_, String>(secrets.into_values().map(|it| it.0.to_vec()).collect::<Vec<_>>())
        };
        for (text, want) in [
            ("id=a,src=file", "from the file"),
            ("id=file", "from the file"),
            ("id=VARIABLE", "from the variable"),
            ("id=a,env=VARIABLE", "from the variable"),
        ] {
            assert_eq!(read(text), Ok(vec![want.as_bytes().to_vec()]), "{text}");
        }
        for (text, word) in [
            ("id=a,src=none", "none: No such file"),
            ("id=a,env=NONE", "no variable NONE"),
            ("id=a,src=long", "more than 500 KiB"),
        ] {
            let told = read(text).expect_err(text);
            assert!(told.contains(word) && told.contains("--secret=id=a"), "{told}");
        }
        let twice = ["id=a,src=file", "id=a,env=VARIABLE"].map(str::to_owned);
        assert!(secrets(&twice, &around).is_err());
    }

    #[test]
    fn agents_are_sockets() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        std::fs::write(dir.path().join("key"), "").expect("written");
        let known = around(&[("SSH_AUTH_SOCK", &socket.to_string_lossy())], dir.path());
        let unknown = around(&[], dir.path());
        for (text, around, want) in [
            ("default", &known, Ok("default")),
            ("other", &known, Ok("other")),
            ("default=", &known, Ok("default")),
            ("x=socket", &unknown, Ok("x")),
            ("default", &unknown, Err("no SSH_AUTH_SOCK")),
            ("x=key", &unknown, Err("neither a socket nor a private key")),
            ("x=socket,raw=true", &unknown, Err("raw sockets are not passed on")),
            ("x=socket,key", &unknown, Err("a socket goes alone")),
            ("x=none", &unknown, Err("No such file")),
        ] {
            let found = agents(&[text.to_owned()], around).map_err(|error| error.to_string());
            match (found, want) {
                (Ok(found), Ok(id)) => match found.get(id) {
                    Some(AgentSource::Socket(path)) => assert_eq!(*path, socket, "{text}"),
                    other => panic!("{text}: {other:?}"),
                },
                (Err(told), Err(word)) => assert!(told.contains(word), "{text}: {told}"),
                (found, want) => panic!("{text}: {found:?} instead of {want:?}"),
            }
        }
    }
}
