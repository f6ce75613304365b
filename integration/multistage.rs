//! Stages: by name, by index, by image; only what is needed is built.

use crate::base;
use crate::build_basic::{Facts, assert_facts, on_busybox};
use crate::executor::PLACES;

const STAGES: &str = "FROM busybox AS First
RUN mkdir /d && echo 1 > /d/a && ln /d/a /d/b && ln -s a /d/l && chown 5:6 /d/a
FROM first AS second
RUN echo 2 > /d/two
FROM busybox AS unused
RUN exit 9
FROM scratch
COPY --from=FIRST /d /first
COPY --from=1 --chown=7:8 /d/two /second
COPY --from=busybox /etc/group /group
";

#[test]
fn files_come_from_stages_and_images() {
    for place in PLACES {
        let tree = on_busybox(place, STAGES).image().tree();
        let facts: Facts<'_> = &[
            ("/first/a", "- 0644 5:6 2 \"1\\n\""),
            ("/first/b", "- 0644 5:6 2 \"1\\n\""),
            ("/first/l", "l 0777 0:0 0 -> a"),
            ("/first/two", ""),
            ("/second", "- 0644 7:8 2 \"2\\n\""),
            ("/bin", ""),
        ];
        assert_facts(&format!("{place:?}"), &tree, facts);
        assert!(tree["/group"].size > 0, "{place:?}");
    }
}

#[test]
fn a_target_ends_the_build_and_skips_what_it_does_not_need() {
    let dockerfile = "FROM busybox AS broken\nRUN exit 9\nFROM busybox AS Wanted\nENV S=wanted\n\
                      FROM broken\nRUN exit 8\n";
    for place in PLACES {
        for target in ["wanted", "WANTED", "1"] {
            let image = on_busybox(place, dockerfile).flag(format!("--target={target}")).image();
            let environment = image.setting("/Env").to_string();
            assert!(environment.contains("S=wanted"), "{place:?} {target}: {environment}");
        }
    }
}

#[test]
fn a_stage_that_is_copied_from_and_built_on_is_built_once() {
    let dockerfile = "FROM busybox AS base\nRUN cat /proc/sys/kernel/random/uuid > /id\n\
                      FROM base AS left\nFROM base\nCOPY --from=left /id /left\n\
                      RUN cmp /id /left\n";
    for place in PLACES {
        on_busybox(place, dockerfile).image();
    }
}

#[test]
fn a_tree_that_is_put_back_has_nothing_of_the_container() {
    let dockerfile = "FROM busybox AS below\nRUN echo 1 > /a\nFROM busybox AS between\nRUN echo 2 > /b\n\
        FROM below\nCOPY --from=between /b /b\nRUN echo 3 > /c\nFROM below\nCOPY --from=2 /c /c\nRUN echo 4 > /d\n";
    for place in PLACES {
        for flag in ["--run-tracer=off", "--verify-snapshot=fail"] {
            let image = on_busybox(place, dockerfile).flag(flag).image();
            let new = image.layers[1..].iter().flat_map(|layer| &layer.entries);
            let names: Vec<&str> = new.map(|(path, _)| path.as_str()).collect();
            assert_eq!(names, ["/a", "/c", "/d"], "{place:?} {flag}");
        }
    }
}

#[test]
fn a_c_program_is_built_in_one_stage_and_shipped_in_another() {
    let dockerfile = "FROM toolchain AS build
WORKDIR /src
COPY Makefile *.c ./
RUN make CFLAGS='-O1 -static' program
FROM busybox
COPY --from=build /src/program /usr/bin/program
RUN program > /said
CMD [\"program\"]
";
    for place in PLACES {
        let image = on_busybox(place, dockerfile)
            .base("toolchain", base::toolchain())
            .file("Makefile", "program: main.o part.o\n\t$(CC) $(CFLAGS) -o $@ $^\n")
            .file("main.c", "int part(void);\nint main(void) { return part(); }\n")
            .file("part.c", "#include <stdio.h>\nint part(void) { return puts(\"built\") < 0; }\n")
            .flag("--verify-snapshot=fail")
            .image();
        let tree = image.tree();
        assert_facts(&format!("{place:?}"), &tree, &[("/said", "- 0644 0:0 6 \"built\\n\"")]);
        assert_eq!(tree["/usr/bin/program"].mode, 0o755);
        assert!(!tree.contains_key("/src"));
    }
}
