//! What instructions become.

use std::time::Duration;

use crate::dockerfile::{
    CommandLine, Healthcheck, Instruction, Mount, MountError, MountKind, Sharing, Source, parse,
    parse_trigger,
};

fn only(text: &str) -> Instruction {
    let file = parse("Dockerfile", format!("FROM x\n{text}\n").as_bytes()).unwrap();
    file.stages[0].instructions[0].node.clone()
}

#[test]
fn stages() {
    let text = "# syntax=docker/dockerfile:1\n# check=skip=all\n\n# the base\nARG V=1 W\n\
                FROM --platform=$P a:$V AS Base\nRUN x\n# next\n# one\nfrom base\n";
    let file = parse("Dockerfile", text.as_bytes()).unwrap();
    assert_eq!(file.directives.syntax.as_deref(), Some("docker/dockerfile:1"));
    assert_eq!(file.directives.check.as_deref(), Some("skip=all"));
    let args: Vec<_> = file.global_args[0].node.items.iter().collect();
    assert_eq!((args[0].value.as_ref().unwrap().text.as_str(), &args[1].value), ("1", &None));
    assert_eq!(file.global_args[0].comments, ["the base"]);
    let [first, second] = file.stages.as_slice() else { panic!("{:?}", file.stages) };
    assert_eq!((first.name.as_deref(), first.base.text.as_str()), (Some("base"), "a:$V"));
    assert_eq!(first.platform.as_ref().unwrap().text, "$P");
    assert_eq!((first.line, first.instructions.len()), (6, 1));
    assert_eq!((second.name.as_deref(), second.comments.join("|").as_str()), (None, "next|one"));
}

fn mount(options: &str) -> Result<Mount, String> {
    let Instruction::Run(run) = only(&format!("RUN --mount={options} x")) else {
        panic!("{options} is no RUN");
    };
    let resolved = run.mounts[0].resolve(|word| word.expand(&(), '\\'));
    resolved.map_err(|error| match error {
        MountError::Invalid { message, hint } => {
            message + &hint.map(|hint| format!(" ({hint})")).unwrap_or_default()
        }
        MountError::Expand(error) => error.to_string(),
    })
}

#[test]
fn mounts() {
    let target =
        |kind, read_only| Mount { kind, target: "/t".to_owned(), read_only, ..Mount::default() };
    for (options, want) in [
        ("target=/t", target(MountKind::Bind, true)),
        ("dst=/t,rw", target(MountKind::Bind, false)),
        ("type=bind,destination=${A:-/t},readonly=false", target(MountKind::Bind, false)),
        ("type=CACHE,target=/t", target(MountKind::Cache, false)),
        (
            "type=cache,target=/t,sharing=locked,id=i,from=f,src=/s,mode=0750,uid=1,gid=2,ro",
            Mount {
                sharing: Some(Sharing::Locked),
                id: "i".to_owned(),
                from: "f".to_owned(),
                source: "/s".to_owned(),
                mode: Some(0o750),
                uid: Some(1),
                gid: Some(2),
                ..target(MountKind::Cache, true)
            },
        ),
        (
            "type=tmpfs,target=/t,size=1.5g",
            Mount { size: 3 << 29, ..target(MountKind::Tmpfs, false) },
        ),
        (
            "type=secret,target=/t,id=s,env=E,required",
            Mount {
                id: "s".to_owned(),
                env: Some("E".to_owned()),
                required: true,
                ..target(MountKind::Secret, true)
            },
        ),
        (
            "type=ssh,target=/t,required=true",
            Mount { required: true, ..target(MountKind::Ssh, true) },
        ),
    ] {
        assert_eq!(mount(options), Ok(want), "{options}");
    }
}

#[test]
fn mounts_refused() {
    for (options, want) in [
        ("type=bint", "unsupported mount type `bint` (did you mean bind?)"),
        ("traget=/t", "unexpected key `traget` in a mount (did you mean target?)"),
        ("target", "invalid mount field `target`: it must be a key=value pair"),
        ("target=/t,", "invalid mount field ``: it must be a key=value pair"),
        ("ro=x", "invalid value `x` for ro in a mount"),
        ("required", "required is not allowed for a bind mount"),
        ("size=1", "size is not allowed for a bind mount"),
        ("type=tmpfs,size=x", "invalid value `x` for size in a mount"),
        ("mode=7,target=/t", "mode is not allowed for a bind mount"),
        ("type=cache,mode=9", "invalid value `9` for mode in a mount"),
        ("type=cache,uid=-1", "invalid value `-1` for uid in a mount"),
        ("type=cache,sharing=lock", "unsupported sharing `lock` (did you mean locked?)"),
        ("type=ssh,sharing=shared", "sharing is not allowed for a ssh mount"),
        ("type=secret", "a secret mount needs `id`, `source` or `target`"),
        ("type=secret,id=a,src=b", "a secret mount cannot have both `source` and `id`"),
        ("type=secret,id=a,from=b", "a secret mount cannot have `from`"),
        ("target=${A:?no}", "A: no"),
    ] {
        assert_eq!(mount(options), Err(want.to_owned()), "{options}");
    }
}

#[test]
fn transfers() {
    let text = "COPY --from=b --chown=1:2 --chmod=u=r --link --parents --exclude=*.o --exclude=x \
                a <<-'E' /d/\n\t$x\n\tE";
    let Instruction::Copy(copy) = only(text) else { panic!("{text}") };
    assert!(copy.parents && copy.files.link && !copy.files.json);
    let flags = [&copy.from, &copy.files.chown, &copy.files.chmod];
    assert_eq!(flags.map(|word| word.as_ref().unwrap().text.as_str()), ["b", "1:2", "u=r"]);
    assert_eq!(copy.files.exclude.len(), 2);
    let [Source::Path(path), Source::Heredoc { heredoc, .. }] = copy.files.sources.as_slice()
    else {
        panic!("{:?}", copy.files.sources)
    };
    assert_eq!((path.text.as_str(), copy.files.dest.text.as_str()), ("a", "/d/"));
    assert_eq!((heredoc.name.as_str(), &*heredoc.body(), heredoc.expand), ("E", "$x\n", false));
    let text = r#"ADD --keep-git-dir --unpack=false --checksum=sha256:0 ["a b", "/c"]"#;
    let Instruction::Add(add) = only(text) else { panic!("{text}") };
    assert_eq!((add.keep_git_dir, add.unpack, add.files.json), (Some(true), Some(false), true));
}

#[test]
fn health() {
    let text = "HEALTHCHECK --interval=1h2m --timeout=1.5s --start-period=0 \
                --start-interval=250ms --retries=3 CMD curl  x";
    let Instruction::Healthcheck(Healthcheck::Cmd { command, timing }) = only(text) else {
        panic!("{text}")
    };
    assert_eq!(command, CommandLine::Shell("curl  x".to_owned()));
    let got = [timing.interval, timing.timeout, timing.start_period, timing.start_interval];
    assert_eq!(got.map(|duration| duration.as_millis()), [3_720_000, 1500, 0, 250]);
    assert_eq!((timing.retries, Duration::ZERO), (3, timing.start_period));
    assert_eq!(only("HEALTHCHECK none"), Instruction::Healthcheck(Healthcheck::None));
}

#[test]
fn triggers() {
    for (text, expression, keyword) in [
        ("ONBUILD copy a  b", "copy a  b", Some("COPY")),
        ("onbuild  RUN <<A\nx\nA", "RUN <<A\nx\nA", Some("RUN")),
        ("ONBUILD RUN a \\\n  b", "RUN a   b", Some("RUN")),
        ("ONBUILD FROBNICATE x", "FROBNICATE x", None),
        ("ONBUILD COPY --froom=x a b", "COPY --froom=x a b", None),
    ] {
        let Instruction::Onbuild(onbuild) = only(text) else { panic!("{text}") };
        assert_eq!(onbuild.expression, expression);
        let trigger = onbuild.trigger.map(|trigger| trigger.node);
        assert_eq!(trigger.as_ref().map(Instruction::keyword), keyword, "{text}");
        assert_eq!(parse_trigger(expression).ok().map(|trigger| trigger.node.keyword()), keyword);
    }
}
