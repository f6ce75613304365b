//! The images that are shipped: what they hold, and that a pipeline can use them.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use serde_json::json;

use crate::executor::{Build, static_executor};
use crate::image::{Image, Kind};
use crate::pod::{Pod, Privileges};
use crate::tools;

const DOCKERFILE: &str = include_str!("../deploy/Dockerfile");

/// A build of `target` from programs that are built already.
fn shipped(target: &str, parts: &Path) -> Build {
    let programs = parts.join("programs");
    fs::create_dir(&programs).unwrap();
    fs::copy(static_executor(), programs.join("executor")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_warmer"), programs.join("warmer")).unwrap();
    fs::write(programs.join("ca-certificates.crt"), "no authority\n").unwrap();
    let shell = parts.join("shell");
    fs::create_dir(&shell).unwrap();
    fs::copy(tools::find("busybox"), shell.join("busybox")).unwrap();
    for applet in ["sh", "mkdir", "ln", "cat"] {
        fs::hard_link(shell.join("busybox"), shell.join(applet)).unwrap();
    }
    symlink("busybox", shell.join("echo")).unwrap();
    Build::of(DOCKERFILE)
        .bring("programs", programs)
        .bring("shell", shell)
        .flags([
            "--build-context=programs={programs}",
            "--build-context=shell={shell}",
            "--verify-snapshot=fail",
        ])
        .flag(format!("--target={target}"))
}

/// Kaniko's places and variables: pipelines name them.
#[test]
fn the_images_are_laid_out_as_kanikos() {
    for program in ["executor", "warmer"] {
        let parts = tempfile::tempdir().unwrap();
        let image = shipped(program, parts.path()).image();
        let tree = image.tree();
        let names: Vec<&str> = tree.keys().map(String::as_str).collect();
        let path = format!("/kaniko/{program}");
        let mut want = vec![
            "/kaniko",
            "/kaniko/.docker",
            "/kaniko/ssl",
            "/kaniko/ssl/certs",
            "/kaniko/ssl/certs/ca-certificates.crt",
            &path,
            "/workspace",
        ];
        want.sort_unstable();
        assert_eq!(names, want);
        assert_eq!(tree[&path].mode & 0o7777, 0o777);
        assert_eq!(tree["/kaniko"].mode & 0o7777, 0o777);
        assert_eq!(image.setting("/Entrypoint"), &json!([path]));
        assert_eq!(image.setting("/WorkingDir"), &json!("/workspace"));
        assert_eq!(
            image.setting("/Env"),
            &json!([
                "PATH=/usr/local/bin:/kaniko",
                "HOME=/root",
                "USER=root",
                "SSL_CERT_DIR=/kaniko/ssl/certs",
                "DOCKER_CONFIG=/kaniko/.docker/",
            ])
        );
    }
}

/// As GitLab does it: a script in the debug image's shell, which builds, and goes on afterwards.
#[test]
fn a_script_in_the_debug_image_builds_and_goes_on() {
    let parts = tempfile::tempdir().unwrap();
    let built = shipped("debug", parts.path()).run().succeeded();
    let image = built.image();
    let shell = &image.tree()["/busybox/sh"];
    assert!(matches!(shell.kind, Kind::File), "{shell:?}");
    assert_eq!(image.tree()["/bin/sh"].target, "/busybox/sh");
    assert_eq!(image.tree()["/kaniko/warmer"].mode & 0o7777, 0o777);
    assert_eq!(image.setting("/Volumes"), &json!({"/busybox": {}}));

    let root = crate::image::unpack(&built.out("image"), parts.path());
    let links = fs::metadata(root.join("busybox/busybox")).unwrap().nlink();
    assert_eq!(links, 5, "the applets are one file");

    let context = parts.path().join("context");
    let out = parts.path().join("out");
    let volume = parts.path().join("volume");
    fs::create_dir(&context).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY file /\nENV A=b\n").unwrap();
    fs::write(context.join("file"), "of the project\n").unwrap();
    let copy = |from: &Path, to: &Path| {
        tools::run("cp", ["-a", &from.display().to_string(), &to.display().to_string()])
    };
    copy(&root.join("busybox"), &volume);
    let script = "/kaniko/executor --context=/workspace --no-push --oci-layout-path=/out/image \
                  && echo then && cat /out/image/oci-layout";
    let pod = Pod::with_root(Privileges::DEFAULT, |lower| {
        copy(&root.join("."), lower);
        fs::create_dir(lower.join("out")).unwrap();
        fs::write(lower.join(".dockerenv"), "").unwrap();
    })
    .mount(&volume, "/busybox", "rw")
    .mount(&context, "/workspace", "ro")
    .mount(&out, "/out", "rw")
    .variable("PATH", "/usr/local/bin:/kaniko:/busybox")
    .arguments(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
    let said = tools::output(&mut pod.command());
    assert!(said.ends_with("then\n{\"imageLayoutVersion\":\"1.0.0\"}"), "{said}");
    let image = Image::open(&out.join("image"));
    image.validate();
    assert_eq!(image.tree().keys().collect::<Vec<_>>(), ["/file"]);
    assert_eq!(image.setting("/Env"), &json!([crate::base::PATH_VARIABLE, "A=b"]));
}
