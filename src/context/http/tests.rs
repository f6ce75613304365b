use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::thread::JoinHandle;

use super::*;

/// Answers one request after the other with these texts; tells what was asked for.
fn serve(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let answer = move || {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("somebody comes");
            let mut request = String::new();
            let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
            while !request.ends_with("\r\n\r\n") {
                assert!(reader.read_line(&mut request).expect("a request") > 0);
            }
            requests.push(request);
            stream.write_all(answer.as_bytes()).expect("sent");
        }
        requests
    };
    (address, std::thread::spawn(answer))
}

fn settings() -> FetchSettings {
    FetchSettings {
        authorization: None,
        proxies: Proxies::default(),
        user_agent: "test".to_owned(),
        roots: Roots::default(),
        connect: Duration::from_secs(30),
        idle: Duration::from_secs(30),
        tries: 3,
        pause: Duration::from_millis(1),
    }
}

const FOUND: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n";

#[test]
fn a_file_is_stored_with_its_time() {
    for (extra, time) in [("Last-Modified: Thu, 01 Jan 1970 00:16:40 GMT\r\n", 1000), ("", 0)] {
        let (address, server) = serve(vec![format!("{FOUND}{extra}\r\nbody")]);
        let dir = tempfile::tempdir().expect("a directory");
        let to = dir.path().join("file");
        let url = format!("http://me:secret@{address}/a/na%20me?q=1");
        let fetched = fetch(&url, &to, &settings(), || false).expect("it is there");
        assert_eq!((fetched.name.as_str(), fetched.size), ("na me", 4));
        let wanted: [u8; 32] = Sha256::digest(b"body").into();
        assert_eq!(fetched.sha256, wanted);
        assert_eq!(std::fs::read(&to).expect("stored"), b"body");
        let meta = std::fs::metadata(&to).expect("stored");
        assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o600, time));
        let requests = server.join().expect("it ends");
        assert!(requests[0].starts_with("GET /a/na%20me?q=1 "), "{requests:?}");
        assert!(requests[0].to_lowercase().contains("authorization: basic"), "{requests:?}");
    }
}

#[test]
fn what_goes_wrong_is_told_without_credentials() {
    let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nbody";
    let circle =
        "HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for (answers, why) in [
        (vec![gone; 1], "404 Not Found"),
        (vec![short; 1], "end of file before message length reached"),
        (vec![circle; 11], "more than 10 redirects"),
    ] {
        let (address, server) = serve(answers.into_iter().map(str::to_owned).collect());
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("http://me:secret@{address}/x?token=secret");
        let error = fetch(&url, &dir.path().join("file"), &settings(), || false).expect_err(why);
        let told = error.to_string();
        assert!(told.contains(why) && !told.contains("secret"), "{told}");
        server.join().expect("it ends");
    }
}

#[test]
fn redirects_are_followed_and_name_nothing() {
    let moved = "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (address, server) = serve(vec![moved.to_owned(), format!("{FOUND}\r\nbody")]);
    let dir = tempfile::tempdir().expect("a directory");
    let url = format!("http://{address}/here");
    let fetched =
        fetch(&url, &dir.path().join("file"), &settings(), || false).expect("it is there");
    assert_eq!(fetched.name, "here");
    assert!(server.join().expect("it ends")[1].starts_with("GET /elsewhere "));
}

#[test]
fn names() {
    for (url, want) in [
        ("http://h/a/b.tar.gz?x=/y#z", "b.tar.gz"),
        ("http://h/a/", "a"),
        ("http://h/", UNNAMED),
        ("http://h", UNNAMED),
        ("http://h/a%2fb", "b"),
        ("http://h/%2e%2e", UNNAMED),
        ("http://h/a%2f..", UNNAMED),
        ("http://h/%00", UNNAMED),
        ("http://h/100%", "100%"),
    ] {
        assert_eq!(name_of(&Url::parse(url).expect(url)), want, "{url}");
    }
}

#[test]
fn an_interrupt_ends_a_silent_transfer() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/x", listener.local_addr().expect("bound"));
    let dir = tempfile::tempdir().expect("a directory");
    let told = fetch(&url, &dir.path().join("file"), &settings(), || true);
    assert!(told.expect_err("nobody answers").to_string().contains("interrupted"));
}
