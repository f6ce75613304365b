//! What a person sees of a refused file: `testdata/dockerfile-errors.txt`, rewritten by `BLESS=1`.

use std::fmt::Write as _;

use crate::dockerfile::{parse, parse_trigger};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/dockerfile-errors.txt");

const REFUSED: &[&str] = &[
    "",
    "# nothing\n\n",
    "ARG a=1\n",
    "RUN make\nFROM x\n",
    "FROM x\n\nRUM make\n",
    "from x\ncoppy a b\n",
    "FROM x\nFROBNICATE\n",
    "FROM\n",
    "FROM x y\n",
    "FROM x AS 1st\n",
    "FROM --plattform=a x\n",
    "FROM x\nCOPY --form=y a b\n",
    "FROM x\nCOPY --from=$y a b\n",
    "FROM x\nCOPY --link=maybe a b\n",
    "FROM x\nCOPY --chown a b\n",
    "FROM x\nCOPY --chown=1 \\\n  --chown=2 a b\n",
    "FROM x\nCOPY a\n",
    "FROM x\nCOPY a <<EOF\nEOF\n",
    "FROM x\nCOPY [\"a\", 1]\n",
    "FROM x\nRUN <<EOF\nmake\n",
    "FROM x\nRUN --network=wifi make\n",
    "FROM x\nRUN --mount=from=$x,target=/y make\n",
    "FROM x\nRUN --mount=type=bind,\\\"a make\n",
    "FROM x\nRUN --device=a,b=c make\n",
    "FROM x\nENV a\n",
    "FROM x\nENV a=b c\n",
    "FROM x\nENV =b\n",
    "FROM x\nLABEL\n",
    "FROM x\nARG =a\n",
    "FROM x\nSHELL /bin/sh -c\n",
    "FROM x\nVOLUME [\" \"]\n",
    "FROM x\nUSER\n",
    "FROM x\nCOPY --link \\\n  a\n",
    "FROM x\nWORKDIR\n",
    "FROM x\nHEALTHCHECK CMD\n",
    "FROM x\nHEALTHCHECK NONE now\n",
    "FROM x\nHEALTHCHECK CDM curl\n",
    "FROM x\nHEALTHCHECK --interval=5 CMD curl\n",
    "FROM x\nHEALTHCHECK --interval=5us CMD curl\n",
    "FROM x\nHEALTHCHECK --retries=-1 CMD curl\n",
    "FROM x\nONBUILD FROM y\n",
    "FROM x\nONBUILD ONBUILD RUN a\n",
    "FROM x\nONBUILD\n",
    "# escape=x\nFROM x\n",
    "# escape=`\n# escape=`\nFROM x\n",
    "\u{feff}FROM x\nLABEL größe=1 ñandú\n",
    // Several, and what follows from the first alone.
    "FROM x\nRUM make\nCOPY --form=y a b\nEXPOSE\nENV a\n",
    "FROM x\nRUN apt-get install \n  gcc \n  make\nCOPPY a b\nUSER\n",
    "FROM x y\nRUN a\nRUN b\nENV c\n",
    "RUN a\nENV b=c\nFROM x\nSHELL sh\n",
    "FROM x\nRUM <<EOF\nmake\nEOF\nENV a\n",
    "FROM x\nENV a\nRUN <<EOF\nmake\n",
];

const NO_TRIGGERS: &[&str] = &["", "FROM x", "RUN a\nRUN b", "RUM a"];

#[test]
fn renderings() {
    let mut all = String::new();
    for text in REFUSED {
        let error = parse("Dockerfile", text.as_bytes()).unwrap_err();
        writeln!(all, "{text:?}\n{}\n", error.render(false)).unwrap();
    }
    for text in NO_TRIGGERS {
        let error = parse_trigger(text).unwrap_err();
        writeln!(all, "trigger {text:?}\n{}\n", error.render(false)).unwrap();
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(GOLDEN, &all).unwrap();
    }
    assert_eq!(all, std::fs::read_to_string(GOLDEN).unwrap());
}

#[test]
fn one_line_and_colour() {
    let error = parse("Dockerfile", b"FROM x\n  RUM make\n").unwrap_err();
    let line = "Dockerfile:2: unknown instruction: RUM (did you mean RUN?)";
    assert_eq!((error.to_string().as_str(), error.line(), error.column()), (line, 2, 3));
    assert!(error.render(true).contains("\u{1b}["), "{}", error.render(true));
}
