//! The host and the playground as processes, on free ports and folders of their own, ended by pid.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub const TOKEN: &str = "black-box-admin-token-0123456789abcdef";
/// How long anything in a test may take; a wait that ends late is a failure with its reason, not a hang.
const PATIENCE: Duration = Duration::from_secs(90);

/// `orchestrix serve`, which can be killed and started again on the same folder and ports.
pub struct Host {
    pub dir: tempfile::TempDir,
    setup: Setup,
    ports: [u16; 3],
    child: Option<Child>,
    client: reqwest::Client,
}

/// How a host is started, where a test needs more than the usual.
#[derive(Default)]
pub struct Setup {
    /// Where its data lies; below its temporary folder without.
    pub data: Option<PathBuf>,
    /// Without the first-party components, whose compiling is most of a first start.
    pub is_bare: bool,
    pub environment: Vec<(&'static str, std::ffi::OsString)>,
}

impl Host {
    pub async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    /// Without first-party components.
    pub async fn start_bare() -> Self {
        Self::start_with(Setup { is_bare: true, ..Setup::default() }).await
    }

    pub async fn start_with(setup: Setup) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut host = Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
            setup,
            ports: free_ports(),
            child: None,
            client: reqwest::Client::new(),
        };
        host.resume().await;
        host
    }

    /// `orchestrix serve` on this host's folder and ports, ready to be started.
    pub fn command(&self) -> Command {
        self.command_on(&self.data())
    }

    /// The same with other data.
    pub fn command_on(&self, data: &Path) -> Command {
        let [http, grpc, otlp] = self.ports;
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrix"));
        command
            .args(["serve", "--playground", "--data-dir"])
            .arg(data)
            .args(["--http", &format!("127.0.0.1:{http}"), "--otlp-grpc", &format!("127.0.0.1:{grpc}")])
            .args(["--otlp-http", &format!("127.0.0.1:{otlp}")])
            .env("ORCHESTRIX_BOOTSTRAP_TOKEN", TOKEN)
            .envs(self.setup.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        if self.setup.is_bare {
            let none = self.dir.path().join("no-plugins");
            std::fs::create_dir_all(&none).expect("the folder is writable");
            command.arg("--plugins-dir").arg(none);
        }
        command
    }

    pub fn data(&self) -> PathBuf {
        self.setup.data.clone().unwrap_or_else(|| self.dir.path().join("data"))
    }

    /// Starts the process (again) and waits until it is ready.
    pub async fn resume(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log file");
        let child =
            self.command().stdout(log.try_clone().expect("a log file")).stderr(log).spawn().expect("the host binary starts");
        self.child = Some(child);
        let began = Instant::now();
        loop {
            let ready = self.client.get(self.url("/readyz")).send().await;
            if ready.is_ok_and(|r| r.status().is_success()) {
                return;
            }
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
                panic!("the host ended with {status} instead of getting ready:\n{}", self.log());
            }
            assert!(began.elapsed() < PATIENCE, "the host is not ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGKILL: no chance to write anything.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the host can be killed");
            child.wait().expect("the host can be waited for");
        }
    }

    /// SIGTERM, as Ctrl-C or an init system would; answers whether it ended cleanly.
    pub fn stop(&mut self) -> bool {
        let mut child = self.child.take().expect("the host runs");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the host can be told to stop");
        child.wait().expect("the host can be waited for").success()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports[0])
    }

    pub fn otlp_grpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }

    pub fn otlp_http(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[2])
    }

    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.request_as(Some(TOKEN), method, path)
    }

    /// With another token, or with none.
    pub fn request_as(&self, token: Option<&str>, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, self.url(path));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Makes a tenant, and answers an admin token of it. Tenants have no API yet: it goes into the database.
    pub async fn add_tenant(&self, name: &str) -> String {
        let tenant = model::TenantId::new(name).expect("the name is a tenant's");
        let (token, created) = (format!("token-of-{name}-0123456789abcdef"), model::Timestamp(1));
        let row = db::token::Token {
            id: uuid::Uuid::new_v4().to_string(),
            tenant: tenant.clone(),
            name: format!("admin of {name}"),
            role: model::Role::Admin,
            hash: api::auth::hash_token(&token),
            created,
            expires: None,
            revoked: None,
        };
        let db =
            db::Db::open(&format!("sqlite:{}", self.data().join("orchestrix.db").display())).await.expect("the database opens");
        db.write::<_, db::Error, _>(move |tx| {
            Box::pin(async move {
                tx.ensure_tenant(&tenant, created).await?;
                tx.add_token(&row).await
            })
        })
        .await
        .expect("the tenant is stored");
        db.close().await;
        token
    }

    pub async fn get(&self, path: &str) -> Value {
        let response = self.request(reqwest::Method::GET, path).send().await.expect("the host answers");
        let status = response.status();
        let text = response.text().await.expect("the answer can be read");
        assert!(status.is_success(), "GET {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("GET {path}: {e}: {text}"))
    }

    /// `orchestrix ARGS…` against this host; answers what it printed.
    pub fn cli(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_orchestrix"))
            .args(args)
            .env("ORCHESTRIX_URL", self.url(""))
            .env("ORCHESTRIX_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .output()
            .expect("the command line starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stdout) + &text(&output.stderr)) }
    }

    /// Applies resources given as text.
    pub fn apply(&self, yaml: &str) -> Result<String, String> {
        let here = self.dir.path().join(format!("{}.yaml", uuid::Uuid::new_v4()));
        std::fs::write(&here, yaml).expect("the folder is writable");
        self.cli(&["apply", "-f", here.to_str().expect("temporary paths are UTF-8")])
    }

    /// Applies the files of an example, with the playground where it really is.
    pub fn apply_example(&self, example: &str, playground: &Playground) {
        for file in ["resources.yaml", "workflow.yaml"] {
            let path = repository().join("examples").join(example).join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let here = self.dir.path().join(file);
            std::fs::write(&here, text.replace("127.0.0.1:9400", &playground.address)).expect("the folder is writable");
            let here = here.to_str().expect("temporary paths are UTF-8");
            self.cli(&["apply", "-f", here]).unwrap_or_else(|e| panic!("apply {file}: {e}\n{}", self.log()));
        }
    }

    /// The runs of a workflow, newest first.
    pub async fn runs(&self, workflow: &str) -> Vec<Value> {
        self.get(&format!("/api/v1/runs?workflow={workflow}&limit=50")).await["items"].as_array().cloned().unwrap_or_default()
    }

    /// Asks `question` until it answers Some, or fails with what the host has logged.
    pub async fn wait_for<T>(&self, what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(answer) = question().await {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}; the host's log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("host.log")
    }

    /// The end of the host's log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(80)..].join("\n")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The playground as a process.
pub struct Playground {
    pub address: String,
    child: Child,
    client: reqwest::Client,
}

impl Playground {
    pub fn start(host: &Host) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_orchestrix")).with_file_name("playground");
        assert!(binary.is_file(), "{} is missing: run `cargo build -p playground`, or `cargo xtask test`", binary.display());
        let mut child = Command::new(binary)
            .args(["--http", "127.0.0.1:0", "--pace-ms", "100", "--otlp", &host.otlp_grpc(), "--token", TOKEN])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the playground starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("listening http=").map(|(_, at)| at.trim().to_owned()))
            .expect("the playground says where it listens");
        // Its output goes on being read, or it would stop at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { address, child, client: reqwest::Client::new() }
    }

    pub async fn get(&self, path: &str) -> Value {
        let response = self.client.get(format!("http://{}{path}", self.address)).send().await.expect("the playground answers");
        response.json().await.expect("the playground answers JSON")
    }

    pub async fn fault(&self, fault: &str) {
        let sent =
            self.client.post(format!("http://{}/fault", self.address)).json(&serde_json::json!({ "fault": fault })).send().await;
        assert!(sent.expect("the playground answers").status().is_success(), "no such fault: {fault}");
    }

    /// Writes that arrived at a path, in order.
    pub async fn writes(&self, path_end: &str) -> Vec<Value> {
        let journal = self.get("/journal").await;
        let rows = journal.as_array().cloned().unwrap_or_default();
        rows.into_iter().filter(|row| row["path"].as_str().is_some_and(|p| p.ends_with(path_end))).collect()
    }

    /// Texts of the chat, oldest first.
    pub async fn messages(&self) -> Vec<String> {
        let messages = self.get("/chat/messages").await;
        messages.as_array().into_iter().flatten().map(|m| m["text"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A built component by its name below the folder of components, as `cargo xtask plugins` leaves them.
pub fn component(name: &str) -> PathBuf {
    let folder = std::env::var_os("ORCHESTRIX_PLUGINS_DIR")
        .map_or_else(|| Path::new(env!("CARGO_BIN_EXE_orchestrix")).with_file_name("plugins"), PathBuf::from);
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo xtask plugins`, or `cargo xtask test`", path.display());
    path
}

/// The project's root folder.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("host/ lies in the project").to_owned()
}

/// Ports that were free a moment ago: a host that is killed must come back where its senders look for it.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.each_ref().map(|l| l.local_addr().expect("a bound socket has an address").port())
}
