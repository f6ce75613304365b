//! `executor`: builds a container image from a Dockerfile, without a daemon.

fn main() {
    std::process::exit(kaniko::cli::main());
}
