//! Configuration: defaults, then the file, then `ORX__SECTION__KEY`, then flags. `ConfigFile` is what is
//! written; `Config` is what was proven. The environment is read here and nowhere else.

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};

/// The file as written, in TOML. Unknown keys are errors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    pub server: ServerSection,
    pub store: StoreSection,
    pub plugins: PluginsSection,
    pub telemetry: TelemetrySection,
    pub log: LogSection,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSection {
    /// Address of the API, the page and ingest over HTTP. Port 0 takes a free one.
    pub http: String,
    /// Address of OTLP over gRPC.
    pub otlp_grpc: String,
    /// Address of OTLP over HTTP.
    pub otlp_http: String,
    /// How the host is reached from outside, for links in messages: `https://orchestrix.example.com`.
    pub public_url: Option<String>,
    /// Seconds that calls in flight get at shutdown.
    pub drain_seconds: u64,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            http: "127.0.0.1:8080".into(),
            otlp_grpc: "127.0.0.1:4317".into(),
            otlp_http: "127.0.0.1:4318".into(),
            public_url: None,
            drain_seconds: 10,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// Folder of everything durable.
    pub data_dir: String,
    /// `postgres://USER:PASSWORD@HOST/NAME`; absent is SQLite in the data folder.
    pub database_url: Option<String>,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self { data_dir: "data".into(), database_url: None }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginsSection {
    /// Folder of first-party components; absent is `plugins` beside the executable.
    pub dir: Option<String>,
    /// Private addresses or networks that plugins may reach in spite of being private: `10.0.0.0/8`.
    pub allow_private: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySection {
    /// Where the host sends its own traces, by OTLP over gRPC: `http://collector:4317`. Absent is nowhere.
    pub otlp_endpoint: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// A filter as `tracing` has it: `info`, `info,workflow=debug`.
    pub level: String,
    /// `text` or `json`
    pub format: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".into(), format: "text".into() }
    }
}

/// What flags may set; each absent one leaves the file's value.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub http: Option<String>,
    pub otlp_grpc: Option<String>,
    pub otlp_http: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub plugins_dir: Option<PathBuf>,
    pub is_playground: bool,
}

/// What was proven.
#[derive(Clone, Debug)]
pub struct Config {
    pub http: SocketAddr,
    pub otlp_grpc: SocketAddr,
    pub otlp_http: SocketAddr,
    pub public_url: Option<String>,
    pub drain: std::time::Duration,
    pub data_dir: PathBuf,
    pub database_url: Option<String>,
    pub plugins_dir: Option<PathBuf>,
    pub allow_private: Vec<String>,
    pub otlp_endpoint: Option<String>,
    pub log_level: String,
    pub is_log_json: bool,
    pub bootstrap_token: Option<String>,
    pub master_key: Option<String>,
}

/// The variables that are not of the form `ORX__SECTION__KEY`.
const BOOTSTRAP_TOKEN: &str = "ORCHESTRIX_BOOTSTRAP_TOKEN";
const MASTER_KEY: &str = "ORCHESTRIX_MASTER_KEY";
/// Shorter ones can be guessed.
const BOOTSTRAP_TOKEN_BYTES_MIN: usize = 12;

/// Reads the file, the process's environment and the flags.
pub fn load(file: Option<&std::path::Path>, flags: Flags) -> anyhow::Result<Config> {
    let text = match file {
        None => String::new(),
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))?
        }
    };
    let environment: Vec<(String, String)> =
        std::env::vars().filter(|(k, _)| k.starts_with("ORX__") || k.starts_with("ORCHESTRIX_")).collect();
    resolve(&text, &environment, flags)
}

fn resolve(text: &str, environment: &[(String, String)], flags: Flags) -> anyhow::Result<Config> {
    let mut tree: toml::Table = text.parse().context("the configuration is not TOML")?;
    for (key, value) in environment {
        let Some(path) = key.strip_prefix("ORX__") else { continue };
        set(&mut tree, key, &path.to_lowercase().split("__").collect::<Vec<_>>(), value)?;
    }
    let file: ConfigFile = serde_path_to_error::deserialize(toml::Value::Table(tree)).map_err(explain)?;
    let variable = |name: &str| environment.iter().find(|(k, v)| k == name && !v.is_empty()).map(|(_, v)| v.clone());
    validate(file, flags, variable(BOOTSTRAP_TOKEN), variable(MASTER_KEY))
}

fn explain(error: serde_path_to_error::Error<toml::de::Error>) -> anyhow::Error {
    let message = error.inner().message().to_owned();
    match api::error::unknown_field(&message) {
        Some((field, Some(near))) => {
            anyhow::anyhow!("configuration: unknown key `{field}` ({}); did you mean `{near}`?", error.path())
        }
        _ => anyhow::anyhow!("configuration: {}: {message}", error.path()),
    }
}

/// A value that reads as TOML is taken as such, so that lists and numbers can be given; else it is text.
fn set(tree: &mut toml::Table, variable: &str, path: &[&str], value: &str) -> anyhow::Result<()> {
    let [section, key] = path else { bail!("{variable} must be ORX__SECTION__KEY, such as ORX__SERVER__HTTP") };
    let parsed = match format!("v = {value}").parse::<toml::Table>() {
        Ok(mut table) if !value.starts_with('"') => table.remove("v").unwrap_or_else(|| value.into()),
        _ => value.into(),
    };
    let table = tree.entry(*section).or_insert_with(|| toml::Table::new().into());
    let Some(table) = table.as_table_mut() else { bail!("configuration: `{section}` is not a section") };
    table.insert((*key).to_owned(), parsed);
    Ok(())
}

fn validate(
    file: ConfigFile,
    flags: Flags,
    bootstrap_token: Option<String>,
    master_key: Option<String>,
) -> anyhow::Result<Config> {
    if let Some(token) = &bootstrap_token
        && token.len() < BOOTSTRAP_TOKEN_BYTES_MIN
    {
        bail!(
            "{BOOTSTRAP_TOKEN} has {} bytes; give it at least {BOOTSTRAP_TOKEN_BYTES_MIN}, for instance `openssl rand -hex 24`",
            token.len()
        );
    }
    let mut allow_private = file.plugins.allow_private;
    if flags.is_playground {
        allow_private.push("127.0.0.1".into());
    }
    let is_log_json = match file.log.format.as_str() {
        "text" => false,
        "json" => true,
        other => bail!("configuration: log.format is {other:?}; it must be text or json"),
    };
    if let Some(url) = &file.server.public_url {
        url.parse::<url::Url>().with_context(|| format!("configuration: server.public_url {url:?} is no URL"))?;
    }
    Ok(Config {
        http: address("server.http", flags.http.as_ref().unwrap_or(&file.server.http))?,
        otlp_grpc: address("server.otlp_grpc", flags.otlp_grpc.as_ref().unwrap_or(&file.server.otlp_grpc))?,
        otlp_http: address("server.otlp_http", flags.otlp_http.as_ref().unwrap_or(&file.server.otlp_http))?,
        public_url: file.server.public_url.map(|u| u.trim_end_matches('/').to_owned()),
        drain: std::time::Duration::from_secs(file.server.drain_seconds),
        data_dir: flags.data_dir.unwrap_or_else(|| file.store.data_dir.into()),
        database_url: file.store.database_url,
        plugins_dir: flags.plugins_dir.or_else(|| file.plugins.dir.map(Into::into)),
        allow_private,
        otlp_endpoint: file.telemetry.otlp_endpoint,
        log_level: file.log.level,
        is_log_json,
        bootstrap_token,
        master_key,
    })
}

fn address(what: &str, text: &str) -> anyhow::Result<SocketAddr> {
    use std::net::ToSocketAddrs;
    let text_with_host = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    text_with_host
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .with_context(|| format!("{what} is {text:?}; it must be HOST:PORT, such as 127.0.0.1:8080"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn a_misspelt_key_is_refused_with_the_nearest_one() {
        let error = resolve("[server]\nhtpp = \"127.0.0.1:0\"", &[], Flags::default()).unwrap_err().to_string();
        assert!(error.contains("did you mean `http`?"), "{error}");
        let error = resolve("[serve]\nhttp = \"x\"", &[], Flags::default()).unwrap_err().to_string();
        assert!(error.contains("did you mean `server`?"), "{error}");
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let file = "[server]\nhttp = \"127.0.0.1:1\"\notlp_grpc = \"127.0.0.1:2\"\notlp_http = \"127.0.0.1:3\"";
        let environment = env(&[("ORX__SERVER__OTLP_GRPC", "127.0.0.1:20"), ("ORX__SERVER__OTLP_HTTP", "127.0.0.1:30")]);
        let flags = Flags { otlp_http: Some("127.0.0.1:300".into()), ..Flags::default() };
        let config = resolve(file, &environment, flags).unwrap();
        assert_eq!((config.http.port(), config.otlp_grpc.port(), config.otlp_http.port()), (1, 20, 300));
    }

    #[test]
    fn a_variable_may_hold_a_list() {
        let config = resolve("", &env(&[("ORX__PLUGINS__ALLOW_PRIVATE", "[\"10.0.0.0/8\"]")]), Flags::default()).unwrap();
        assert_eq!(config.allow_private, ["10.0.0.0/8"]);
    }

    #[test]
    fn a_wrong_value_is_told_with_its_key() {
        for (file, says) in [
            ("[server]\nhttp = \"nowhere\"", "server.http"),
            ("[log]\nformat = \"xml\"", "log.format"),
            ("[server]\ndrain_seconds = \"long\"", "server.drain_seconds"),
            ("[server", "not TOML"),
        ] {
            let error = format!("{:#}", resolve(file, &[], Flags::default()).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_bootstrap_token_that_can_be_guessed_is_refused() {
        let error = resolve("", &env(&[("ORCHESTRIX_BOOTSTRAP_TOKEN", "admin")]), Flags::default()).unwrap_err();
        assert!(error.to_string().contains("at least 12"), "{error}");
    }

    #[test]
    fn only_the_playground_may_reach_this_machine() {
        assert!(resolve("", &[], Flags::default()).unwrap().allow_private.is_empty());
        let flags = Flags { is_playground: true, ..Flags::default() };
        assert_eq!(resolve("", &[], flags).unwrap().allow_private, ["127.0.0.1"]);
    }
}
