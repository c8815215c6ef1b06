//! What must be on the machine, in one place, and how to get it.

use crate::{guest, project::Project, shell};
use anyhow::{Result, bail};

/// A tool, found by its program, and the Debian packages that bring it.
pub struct Tool {
    pub program: &'static str,
    pub packages: &'static [&'static str],
    pub why: &'static str,
}

/// What the host itself needs to compile: ring, zstd and SQLite are C.
pub const BUILD: [Tool; 1] =
    [Tool { program: "cc", packages: &["build-essential"], why: "compile the C parts of ring, zstd and SQLite" }];

/// What the web interface needs.
pub const WEB: [Tool; 2] = [
    Tool { program: "node", packages: &["nodejs"], why: "build the web interface" },
    Tool { program: "npm", packages: &["npm"], why: "fetch the web interface's packages" },
];

/// What tests need beyond that. Clients are the real ones, so that protocols are tested against what people run.
pub const TEST: [Tool; 6] = [
    Tool { program: "chromium", packages: &["chromium"], why: "drive the web interface" },
    Tool { program: "python3", packages: &["python3", "python3-venv"], why: "run real Python clients" },
    Tool { program: "prometheus", packages: &["prometheus"], why: "send remote write as Prometheus does" },
    Tool { program: "pg_ctlcluster", packages: &["postgresql"], why: "be asked by the postgres plugin" },
    Tool { program: "openssl", packages: &["openssl"], why: "make certificates for test servers" },
    Tool { program: "faketime", packages: &["faketime"], why: "set a test host's clock" },
];

/// Installs those of the tools that are missing, asking nothing.
pub fn ensure(tools: &[Tool]) -> Result<()> {
    let missing: Vec<_> = tools.iter().filter(|tool| !is_there(tool)).flat_map(|tool| tool.packages).copied().collect();
    shell::apt_install(&missing)
}

/// Prints each prerequisite and whether it is there.
pub fn report(project: &Project) -> Result<()> {
    let mut missing = 0;
    for tool in BUILD.iter().chain(&WEB).chain(&TEST) {
        let is_there = is_there(tool);
        missing += usize::from(!is_there);
        let mend = if is_there { String::new() } else { format!("  → apt-get install {}", tool.packages.join(" ")) };
        println!("{} {:<12} to {}{mend}", mark(is_there), tool.program, tool.why);
    }
    match guest::toolchain() {
        Ok(guest::Toolchain::Rustup) => println!("{} {:<12} to compile plugins (rustup's target)", mark(true), "wasm32"),
        Ok(guest::Toolchain::Debian { missing: packages }) => {
            missing += packages.len();
            let mend = if packages.is_empty() { String::new() } else { format!("  → apt-get install {}", packages.join(" ")) };
            println!("{} {:<12} to compile plugins (Debian's compiler){mend}", mark(packages.is_empty()), "wasm32");
        }
        Err(e) => {
            missing += 1;
            println!("{} {:<12} {e}", mark(false), "wasm32");
        }
    }
    println!("\nproject {}\ntarget  {}", project.root.display(), project.target.display());
    if missing > 0 {
        bail!("{missing} missing; `cargo xtask up` and `cargo xtask test` install what they need");
    }
    Ok(())
}

fn is_there(tool: &Tool) -> bool {
    shell::find_program(tool.program).is_some()
}

fn mark(is_there: bool) -> &'static str {
    if is_there { "ok     " } else { "MISSING" }
}
