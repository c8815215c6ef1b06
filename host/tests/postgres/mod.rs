//! A workflow asks a real PostgreSQL through the `postgres` component: TLS ended by the host, the SCRAM proof computed by
//! the host, the password never in the component.

use crate::harness::{Host, repository};
use serde_json::Value;
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PASSWORD: &str = "correct-horse-battery-staple";
const USER: &str = "orchestrix";
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of its own, with TLS by a certificate of its own, ended by pid.
struct Postgres {
    port: u16,
    folder: tempfile::TempDir,
    server: Child,
}

impl Postgres {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let data = folder.path().join("data");
        std::fs::write(folder.path().join("password"), PASSWORD).expect("the folder is writable");
        certificate(folder.path());
        own(folder.path());
        run(as_postgres("initdb")
            .arg("-D")
            .arg(&data)
            .args(["-U", USER, "-A", "scram-sha-256", "--pwfile"])
            .arg(folder.path().join("password")));
        let server = as_postgres("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "ssl=on"])
            .args(["-c", &format!("ssl_cert_file={}", folder.path().join("server.crt").display())])
            .args(["-c", &format!("ssl_key_file={}", folder.path().join("server.key").display())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("postgres starts");
        let postgres = Self { port, folder, server };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "PostgreSQL does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        postgres
    }

    fn ca(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.crt")).expect("the certificate was made")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The wrapper that changes the user passes signals on; SIGINT is PostgreSQL's fast shutdown.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.server), rustix::process::Signal::INT);
        let _ = self.server.wait();
    }
}

/// A program of PostgreSQL's, wherever Debian keeps it. PostgreSQL refuses to run as root.
fn as_postgres(program: &str) -> Command {
    let folders =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin").join(program));
    let path = folders.filter(|path| path.is_file()).max().unwrap_or_else(|| PathBuf::from(program));
    if !rustix::process::geteuid().is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(path).current_dir("/");
    command
}

fn own(folder: &Path) {
    if rustix::process::geteuid().is_root() {
        run(Command::new("chown").args(["-R", "postgres"]).arg(folder));
    }
}

fn certificate(folder: &Path) {
    let names = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(names)
        .arg("-keyout")
        .arg(folder.join("server.key"))
        .arg("-out")
        .arg(folder.join("server.crt")));
}

fn run(command: &mut Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; run `cargo xtask test`, which installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn resources(postgres: &Postgres, password: &str) -> String {
    let ca: String = postgres.ca().lines().map(|line| format!("    {line}\n")).collect();
    let port = postgres.port;
    format!(
        "apiVersion: orchestrix/v1\nkind: Secret\nmetadata: {{ name: shop-db }}\nspec:\n  value: {password}\n  hosts: [\"tcp://127.0.0.1:{port}\"]\n\
         ---\napiVersion: orchestrix/v1\nkind: Secret\nmetadata: {{ name: shop-db-ca }}\nspec:\n  hosts: [\"tcp://127.0.0.1:{port}\"]\n  value: |\n{ca}\
         ---\napiVersion: orchestrix/v1\nkind: Plugin\nmetadata: {{ name: postgres }}\nspec:\n  plugin: orchestrix/postgres\n\
         \x20 config: {{ host: 127.0.0.1, port: {port}, database: postgres, user: {USER} }}\n\
         \x20 grant: {{ sockets: [\"tcp://127.0.0.1:{port}?read-only=trusted\"] }}\n\
         \x20 secrets: {{ password: {{ secret: shop-db }}, ca: {{ secret: shop-db-ca }} }}\n"
    )
}

const WORKFLOW: &str = r#"
document: { dsl: 1.0.3, namespace: tests, name: ask-the-database, version: 1.0.0 }
do:
  - health:
      call: postgres/health-check
      export: { as: '${ { health: . } }' }
  - ask:
      call: postgres/query
      with: { sql: "SELECT $1::int + 1 AS n, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", parameters: [41] }
      export: { as: '${ $context + { rows: .rows } }' }
  - answer:
      set: { healthy: '${ $context.health.healthy }', error: '${ $context.health.error }', rows: '${ $context.rows }' }
"#;

async fn ask(host: &Host, postgres: &Postgres, password: &str) -> Value {
    let file = host.dir.path().join("postgres.yaml");
    std::fs::write(&file, format!("{}---\n{WORKFLOW}", resources(postgres, password))).expect("the folder is writable");
    host.cli(&["apply", "-f", file.to_str().expect("temporary paths are UTF-8")])
        .unwrap_or_else(|e| panic!("{e}\n{}", host.log()));
    host.cli(&["workflow", "run", "ask-the-database"]).unwrap_or_else(|e| panic!("{e}\n{}", host.log()));
    host.wait_for("the run to end", async || host.runs("ask-the-database").await.into_iter().find(|run| !run["ended"].is_null()))
        .await
}

#[tokio::test]
async fn a_real_database_answers_over_tls_and_its_password_stays_with_the_host() {
    assert!(repository().join("plugins/actions/postgres").is_dir());
    let host = Host::start().await;
    let postgres = Postgres::start();
    let run = ask(&host, &postgres, PASSWORD).await;
    assert_eq!(
        (&run["output"]["healthy"], &run["output"]["rows"][0]["n"]),
        (&true.into(), &42.into()),
        "{run:#}\n{}",
        host.log()
    );
    assert_eq!(run["output"]["rows"][0]["ssl"], true, "the connection is encrypted");
    let calls = host.get("/api/v1/invocations?plugin=postgres&limit=10").await.to_string();
    assert!(calls.contains("health-check") && !calls.contains(PASSWORD), "{calls}");
}

#[tokio::test]
async fn a_wrong_password_is_told_without_being_shown() {
    let host = Host::start().await;
    let postgres = Postgres::start();
    let run = ask(&host, &postgres, "not-the-password").await;
    assert_eq!(run["status"], "faulted", "{run:#}");
    let told = run["error"].to_string();
    assert!(told.contains("password") && !told.contains("not-the-password"), "{told}");
}
