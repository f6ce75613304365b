//! Users and groups of the image, read from its own `/etc/passwd` and `/etc/group`.
//!
//! The C library would read the host's. What a name or number means follows
//! the container runtime (opencontainers/runc, `libcontainer/user`), and so Docker.

use thiserror::Error;

/// Who runs a step, or owns what it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, sorted, without duplicates.
    pub groups: Vec<u32>,
    /// The home directory, `/` when the image has no entry for the user.
    pub home: String,
}

impl Identity {
    /// Root, in an image that says nothing of it.
    pub fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new(), home: "/".to_owned() }
    }
}

/// A user or group that the image does not know.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UnknownUser {
    /// A name that `/etc/passwd` does not have.
    #[error("the image has no user {0:?} in /etc/passwd")]
    User(String),
    /// A name that `/etc/group` does not have.
    #[error("the image has no group {0:?} in /etc/group")]
    Group(String),
    /// A number that no kernel takes.
    #[error("{0} is out of range for a user or group id")]
    OutOfRange(String),
}

/// The account files of one root file system.
#[derive(Debug, Default)]
pub struct Accounts {
    users: Vec<User>,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl Accounts {
    /// Reads the text of both files; lines that are not entries are passed over,
    /// as every reader of these files does.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        Self {
            users: lines(passwd).filter_map(|line| User::parse(&line)).collect(),
            groups: lines(group).filter_map(|line| Group::parse(&line)).collect(),
        }
    }

    /// What `USER user[:group]` means for a process of the image.
    ///
    /// # Errors
    /// A name that the image does not have; a number is taken as it is.
    pub fn identity(&self, spec: &str) -> Result<Identity, UnknownUser> {
        let (user, group) = split(spec);
        let user = if user.is_empty() { "0" } else { user };
        let known = self.users.iter().find(|known| known.is(user));
        let mut identity = match known {
            Some(known) => Identity {
                uid: known.uid,
                gid: known.gid,
                groups: Vec::new(),
                home: known.home.clone(),
            },
            None => Identity {
                uid: id(user)?.ok_or_else(|| UnknownUser::User(user.to_owned()))?,
                ..Identity::root()
            },
        };
        match (group, known) {
            (Some(group), _) => identity.gid = self.group(group)?,
            (None, Some(known)) => identity.groups = self.memberships(&known.name),
            (None, None) => {}
        }
        // The primary group is one of the groups: tests for membership look there (CVE-2023-25173).
        identity.groups.push(identity.gid);
        identity.groups.sort_unstable();
        identity.groups.dedup();
        if identity.home.is_empty() {
            identity.home.push('/');
        }
        Ok(identity)
    }

    /// What `--chown=user[:group]` means, and USER for a directory that WORKDIR makes: both ids, the
    /// group being the user's own number when none is given and the user is a bare number, as BuildKit
    /// has it. What is left out beside a colon is root's.
    ///
    /// # Errors
    /// A name that the image does not have.
    pub fn owner(&self, spec: &str) -> Result<(u32, u32), UnknownUser> {
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (spec, None),
        };
        let (uid, own) = match id(user)? {
            Some(uid) => (uid, uid),
            None => self.named(user).map(|user| (user.uid, user.gid))?,
        };
        let gid = match group {
            None => own,
            Some(group) => id(group)?.map_or_else(|| self.group(group), Ok)?,
        };
        Ok((uid, gid))
    }

    fn named(&self, name: &str) -> Result<&User, UnknownUser> {
        self.users
            .iter()
            .find(|user| user.name == name)
            .ok_or_else(|| UnknownUser::User(name.to_owned()))
    }

    fn group(&self, name: &str) -> Result<u32, UnknownUser> {
        if let Some(group) = self.groups.iter().find(|group| group.name == name) {
            return Ok(group.gid);
        }
        id(name)?.ok_or_else(|| UnknownUser::Group(name.to_owned()))
    }

    fn memberships(&self, user: &str) -> Vec<u32> {
        let member_of = |group: &&Group| group.members.iter().any(|member| member == user);
        let mut gids: Vec<u32> =
            self.groups.iter().filter(member_of).map(|group| group.gid).collect();
        gids.sort_unstable();
        gids.dedup();
        gids
    }
}

impl User {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default().to_owned();
        Some(Self { name, uid, gid, home })
    }

    fn is(&self, spec: &str) -> bool {
        self.name == spec || spec.parse() == Ok(self.uid)
    }
}

impl Group {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or_default().split(',').map(str::to_owned).collect();
        Some(Self { name, gid, members })
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = String> + '_ {
    text.split(|byte| *byte == b'\n')
        .map(|line| String::from_utf8_lossy(line).trim().to_owned())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn split(spec: &str) -> (&str, Option<&str>) {
    match spec.split_once(':') {
        Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
        None => (spec, None),
    }
}

/// The id that needs no file to be known: a number, and root's, whom images without files have too.
fn id(text: &str) -> Result<Option<u32>, UnknownUser> {
    if matches!(text, "" | "root") { Ok(Some(0)) } else { number(text) }
}

/// A text of digits as an id; other texts are names. The highest id means "unchanged" to the kernel.
fn number(text: &str) -> Result<Option<u32>, UnknownUser> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id != u32::MAX => Ok(Some(id)),
        _ => Err(UnknownUser::OutOfRange(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::parse(
            b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n# no\nbad\n",
            b"root:x:0:\napp:x:1001:\nwheel:x:10:root,app\naudio:x:29:app\n",
        )
    }

    #[test]
    fn a_user_runs_as_docker_would_run_it() {
        let told = |spec: &str| match accounts().identity(spec) {
            Ok(who) => format!("{}:{} {:?} {}", who.uid, who.gid, who.groups, who.home),
            Err(error) => error.to_string(),
        };
        for (spec, want) in [
            ("", "0:0 [0, 10] /root"),
            ("root", "0:0 [0, 10] /root"),
            ("app", "1000:1001 [10, 29, 1001] /home/app"),
            ("1000", "1000:1001 [10, 29, 1001] /home/app"),
            ("app:audio", "1000:29 [29] /home/app"),
            ("app:7", "1000:7 [7] /home/app"),
            ("4242", "4242:0 [0] /"),
            ("4242:7", "4242:7 [7] /"),
            ("nobody", "the image has no user \"nobody\" in /etc/passwd"),
            ("app:nogroup", "the image has no group \"nogroup\" in /etc/group"),
            ("4294967295", "4294967295 is out of range for a user or group id"),
        ] {
            assert_eq!(told(spec), want, "{spec:?}");
        }
    }

    #[test]
    fn root_needs_no_files() {
        let none = Accounts::default();
        for spec in ["", "root", "0", "root:root", ":root"] {
            let who = none.identity(spec).expect(spec);
            assert_eq!((who.uid, who.gid), (0, 0), "{spec}");
            assert_eq!(none.owner(spec).expect(spec), (0, 0), "{spec}");
        }
    }

    #[test]
    fn an_owner_may_be_a_number_nobody_knows() {
        let told = |spec: &str| match accounts().owner(spec) {
            Ok((uid, gid)) => format!("{uid}:{gid}"),
            Err(error) => error.to_string(),
        };
        for (spec, want) in [
            ("app", "1000:1001"),
            ("app:wheel", "1000:10"),
            ("1000", "1000:1000"),
            ("7:8", "7:8"),
            ("55:app", "55:1001"),
            ("root", "0:0"),
            ("root:app", "0:1001"),
            (":8", "0:8"),
            ("7:", "7:0"),
            ("", "0:0"),
            ("who", "the image has no user \"who\" in /etc/passwd"),
        ] {
            assert_eq!(told(spec), want, "{spec:?}");
        }
    }
}
