//! Expansion, as a table: what is written, what becomes of it.

use std::collections::BTreeMap;

use crate::dockerfile::{ExpandError, Span, Word, expand_body};

fn vars() -> BTreeMap<String, String> {
    let vars = [
        ("HOME", "/home/me"),
        ("EMPTY", ""),
        ("FILE", "a.tar.tar"),
        ("TWO", " x  y "),
        ("STAR", "a*b*c"),
        ("PORTS", "80 443/tcp"),
        ("Ä1", "umlaut"),
    ];
    vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn word(text: &str) -> Word {
    Word { text: text.to_owned(), span: Span::default() }
}

#[test]
fn one_value() {
    for (text, want) in [
        ("plain", "plain"),
        ("$HOME/x", "/home/me/x"),
        ("${HOME}x", "/home/mex"),
        ("$NONE.", "."),
        ("$1x $! $", "x  $"),
        ("$Ä1", "umlaut"),
        (r"\$HOME \\$HOME", r"$HOME \/home/me"),
        ("'$HOME'", "$HOME"),
        (r#""$HOME \a \" \$ \\""#, r#"/home/me \a " $ \"#),
        (r"a\", "a"),
        ("a<<b < c", "a<<b < c"),
        ("${NONE:-d}${EMPTY:-d}${EMPTY-d}${HOME:-d}", "dd/home/me"),
        ("${NONE:+d}${EMPTY:+d}${EMPTY+d}${HOME:+d}", "dd"),
        ("${NONE:-${EMPTY:-'$HOME'}}", "$HOME"),
        (r"${NONE:-a\}b}", "a}b"),
        ("${HOME:?}${EMPTY?}", "/home/me"),
        ("${FILE#*.} ${FILE##*.} ${FILE%.*} ${FILE%%.*}", "tar.tar tar a.tar a"),
        ("${FILE#x} ${FILE%x} ${NONE#x}", "a.tar.tar a.tar.tar "),
        ("${FILE/tar/zip} ${FILE//tar/zip} ${FILE//t?r}", ""),
        (r"${STAR//\*/+} ${STAR#a\*} ${STAR%\*c}", "a+b+c b*c a*b"),
        (r"${HOME//\//-} ${HOME/\/home/~}", "-home-me ~/me"),
        ("${FILE//./$EMPTY}", "atartar"),
    ] {
        let got = word(text).expand(&vars(), '\\');
        if want.is_empty() {
            assert!(got.is_err(), "{text}: {got:?}");
        } else {
            assert_eq!(got.as_deref(), Ok(want), "{text}");
        }
    }
}

#[test]
fn backtick_as_escape() {
    for (text, want) in
        [(r"C:\dir\$EMPTY", r"C:\dir\"), ("`$HOME ``", "$HOME `"), ("\"a`\"\"", "a\"")]
    {
        assert_eq!(word(text).expand(&vars(), '`').as_deref(), Ok(want), "{text}");
    }
}

#[test]
fn errors() {
    for (text, want) in [
        ("'a", "missing closing single quote in `'a`"),
        ("x\"a", "missing closing double quote in `x\"a`"),
        ("${HOME", "missing `}` in the substitution in `${HOME`"),
        ("${HOME:-a", "missing `}` in the substitution in `${HOME:-a`"),
        ("${HOME/a}", "missing `/` in the substitution in `${HOME/a}`"),
        ("${}", "bad substitution in `${}`"),
        ("${HOME^}", "unsupported modifier `^` in the substitution in `${HOME^}`"),
        ("${HOME:=x}", "unsupported modifier `:=` in the substitution in `${HOME:=x}`"),
        ("${HOME:#x}", "unsupported modifier `:#` in the substitution in `${HOME:#x}`"),
        ("${NONE?}", "NONE: is not allowed to be unset"),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
        ("${NONE:?set it}", "NONE: set it"),
        (
            r"${HOME#\x}",
            r"invalid pattern `\x`: invalid escape `\x` in the substitution in `${HOME#\x}`",
        ),
    ] {
        let error = word(text).expand(&vars(), '\\').unwrap_err();
        assert_eq!(error.to_string(), want, "{text}");
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| word(&("${X:-".repeat(depth) + "x" + &"}".repeat(depth)));
    assert_eq!(nested(100).expand(&vars(), '\\').as_deref(), Ok("x"));
    assert_eq!(nested(100_000).expand(&vars(), '\\'), Err(ExpandError::TooDeep));
}

#[test]
fn lists() {
    for (text, want) in [
        ("$PORTS", "80|443/tcp"),
        ("8$PORTS", "880|443/tcp"),
        ("\"$PORTS\"", "80 443/tcp"),
        ("a$TWO", "a|x|y"),
        (r"a\ b c", "a b|c"),
        ("'' $EMPTY", ""),
        ("8${NONE:-0}80", "8080"),
        ("a << b", "a|<< b"),
    ] {
        let got = word(text).expand_list(&vars(), '\\').unwrap().join("|");
        assert_eq!(got, want, "{text}");
    }
}

#[test]
fn variables_looked_up() {
    let report = word("$HOME ${NONE:-$OTHER} '$QUOTED'").expand_reporting(&vars(), '\\').unwrap();
    assert_eq!(report.used.into_iter().collect::<Vec<_>>(), ["HOME"]);
    assert_eq!(report.unset.into_iter().collect::<Vec<_>>(), ["NONE", "OTHER"]);
}

#[test]
fn bodies() {
    let body = "it's \"$HOME\" \\$HOME `x`\n";
    assert_eq!(expand_body(body, &vars()).unwrap().text, "it's \"/home/me\" $HOME `x`\n");
}
