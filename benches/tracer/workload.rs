//! What the steps do.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::base;

/// One RUN.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) command: &'static str,
    aim: Aim,
}

/// What CPU time it may take at most, over that of the command alone.
enum Aim {
    None,
    /// The command with its tracer.
    Command(f64),
    /// The look at the tree as well.
    All(f64),
}

impl Workload {
    pub(crate) fn aim(&self, command: f64, all: f64) -> String {
        let (what, got, most) = match self.aim {
            Aim::None => return "no aim".to_owned(),
            Aim::Command(most) => ("command", command, most),
            Aim::All(most) => ("all", all, most),
        };
        let verdict = if got <= most { "reached" } else { "missed" };
        format!("{what} {got:.2}, aimed at {most:.2}: {verdict}")
    }
}

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "small",
        title: "one line into one file",
        command: "echo line > /line",
        aim: Aim::None,
    },
    Workload {
        name: "read",
        title: "grep -r and find, cat of 10,000 files",
        command: "grep -rc nowhere /usr/share /usr/include /etc > /dev/null; \
                  find / -xdev -type f -size -32k | head -n 10000 | xargs -d '\\n' cat > /dev/null",
        aim: Aim::Command(1.02),
    },
    Workload {
        name: "exec",
        title: "3,000 times /bin/true",
        command: "i=0; while [ $i -lt 3000 ]; do /bin/true; i=$((i+1)); done",
        aim: Aim::Command(1.02),
    },
    Workload {
        name: "compile",
        title: "make -j2 of 80 C files",
        command: "make -s -j2 -C /context/c",
        aim: Aim::Command(1.03),
    },
    Workload {
        name: "dpkg",
        title: "dpkg -i of ten packages and what they need",
        command: "dpkg -i /context/debs/*.deb > /dev/null",
        aim: Aim::All(1.15),
    },
    Workload {
        name: "pip",
        title: "pip install of a package of 1,500 modules",
        command: "/venv/bin/pip install -q --no-index /context/large-1.0-py3-none-any.whl",
        aim: Aim::All(1.15),
    },
    Workload {
        name: "npm",
        title: "npm install of 100 packages of 60 files each",
        command: "cd /app && npm install --offline --no-audit --no-fund --silent",
        aim: Aim::All(1.15),
    },
    Workload {
        name: "untar",
        title: "tar -x of 20,000 files",
        command: "mkdir /untar && tar -xf /context/many.tar -C /untar",
        aim: Aim::All(2.0),
    },
    Workload {
        name: "unpack",
        title: "20,000 files by a program that nobody knows to write many",
        command: "python3 /context/many.py /unpack",
        aim: Aim::All(2.0),
    },
    Workload {
        name: "fchmod",
        title: "50,000 times fchmod(2): one event each",
        command: "python3 /context/calls.py fchmod",
        aim: Aim::None,
    },
    Workload {
        name: "create",
        title: "25,000 times open(2), write(2), unlink(2): two events each",
        command: "python3 /context/calls.py create",
        aim: Aim::None,
    },
];

/// What all of them are run on: one that takes minutes to download only if it is wanted.
pub(crate) fn base(wanted: &[&Workload]) -> PathBuf {
    let wants_npm = wanted.iter().any(|workload| workload.name == "npm");
    match wants_npm {
        true => {
            base::debian_with("toolchain-with-npm", "gcc libc6-dev make python3 python3-venv npm")
        }
        false => base::toolchain(),
    }
}

/// Writes what the steps need.
pub(crate) fn fill(context: &Path) {
    let write = |name: &str, text: &str| {
        let file = context.join(name);
        fs::create_dir_all(file.parent().expect("a directory")).expect("directories");
        fs::write(file, text).expect("a file of the context");
    };
    write("prepare", PREPARE);
    write("many.py", MANY);
    write("calls.py", CALLS);
    write("c/Makefile", MAKEFILE);
    write("wheel.py", WHEEL);
    write("packages.py", PACKAGES);
    for unit in 0..80 {
        let mut text = "#include <stdio.h>\n".to_owned();
        for function in 0..20 {
            writeln!(text, "int f{unit}_{function}(int n) {{ return printf(\"%d\", n); }}")
                .expect("text in memory");
        }
        write(&format!("c/unit{unit}.c"), &text);
    }
    let debs = context.join("debs");
    fs::create_dir(&debs).expect("a directory");
    for package in fs::read_dir(base::packages()).expect("the packages") {
        let package = package.expect("an entry");
        fs::copy(package.path(), debs.join(package.file_name())).expect("a package");
    }
}

const MAKEFILE: &str = "objects = $(patsubst %.c,%.o,$(wildcard *.c))\nall: $(objects)\n";

/// A package of 1,500 modules.
const WHEEL: &str = "import zipfile
wheel = zipfile.ZipFile('/context/large-1.0-py3-none-any.whl', 'w')
info = 'large-1.0.dist-info'
wheel.writestr('large/__init__.py', '')
for n in range(1500):
    wheel.writestr(f'large/module{n}.py', f'value = {n}\\n' * 40)
wheel.writestr(f'{info}/METADATA', 'Metadata-Version: 2.1\\nName: large\\nVersion: 1.0\\n')
wheel.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
wheel.writestr(f'{info}/RECORD', '')
wheel.close()
";

/// An application of 100 packages, each an archive beside it.
const PACKAGES: &str = "import io, json, os, tarfile
os.makedirs('/app')
wanted = {}
for p in range(100):
    archive = tarfile.open(f'/app/part{p}.tgz', 'w:gz')
    def add(name, text):
        info = tarfile.TarInfo(f'package/{name}')
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text.encode()))
    add('package.json', json.dumps({'name': f'part{p}', 'version': '1.0.0'}))
    for n in range(60): add(f'lib{n % 4}/module{n}.js', f'exports.value = {n};\\n' * 20)
    archive.close()
    wanted[f'part{p}'] = f'file:part{p}.tgz'
app = {'name': 'app', 'version': '1.0.0', 'dependencies': wanted}
open('/app/package.json', 'w').write(json.dumps(app))
";

const PREPARE: &str = "set -e\n\
    python3 /context/many.py /tmp/many\n\
    tar -cf /context/many.tar -C /tmp/many .\n\
    rm -r /tmp/many\n\
    python3 /context/wheel.py\n\
    python3 /context/packages.py\n\
    python3 -m venv /venv\n";

/// A tree of 20,000 files of 400 bytes in 400 directories.
const MANY: &str = "import os, sys
top = sys.argv[1]
for d in range(400):
    os.makedirs(f'{top}/{d}')
    for n in range(50):
        with open(f'{top}/{d}/{n}', 'w') as f:
            f.write('x' * 400)
            os.fchmod(f.fileno(), 0o640)
";

const CALLS: &str = "import os, sys
fd = os.open('/called', os.O_CREAT | os.O_RDONLY)
if sys.argv[1] == 'fchmod':
    for n in range(50000): os.fchmod(fd, 0o600 + n % 2)
else:
    for n in range(25000):
        file = os.open('/tmp/made', os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(file, b'x')
        os.close(file)
        os.unlink('/tmp/made')
";
