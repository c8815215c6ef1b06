//! `orchestrix plugin`

use super::{Context, resource};
use crate::{
    cli::PluginCommand,
    client::{Failure, Result, Send, segment},
};
use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::Read;

pub async fn run(context: &Context, command: &PluginCommand) -> Result<()> {
    match command {
        PluginCommand::List => resource::get(context, "plugins", None).await,
        PluginCommand::Show { name } => resource::get(context, "plugins", Some(name)).await,
        PluginCommand::Install { file, name, grant_all } => {
            let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let send = Send::Raw { content_type: "application/wasm", bytes };
            let package = context.client.call(Method::POST, "/api/v1/packages", &[], send).await?;
            let plugin = package["plugin"].as_str().unwrap_or_default().to_owned();
            let name = name.clone().unwrap_or_else(|| plugin.rsplit('/').next().unwrap_or(&plugin).to_owned());
            let path = format!("/api/v1/plugins/{}", segment(&name));
            // An update keeps what the admin decided before.
            let mut spec = match context.client.get(&path).await {
                Ok(existing) => {
                    json!({ "config": existing["config"], "grant": existing["grant"], "secrets": existing["secrets"] })
                }
                Err(Failure::NotFound(_)) => json!({}),
                Err(other) => return Err(other),
            };
            spec["plugin"] = json!(plugin);
            spec["version"] = package["version"].clone();
            if *grant_all {
                spec["grant"] = package["asked"].clone();
            }
            let installed = context.client.call(Method::PUT, &path, &[], Send::Json(spec)).await?;
            context.say(format_args!("installed {name} ({plugin} {})", package["version"].as_str().unwrap_or_default()));
            context.print(&installed, &[]);
            Ok(())
        }
        PluginCommand::Grant { name, file } => {
            let mut text = String::new();
            if file.as_os_str() == "-" {
                std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            } else {
                text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            }
            let grant: Value =
                serde_saphyr::from_str(&text).map_err(|e| Failure::Refused(format!("the grant is not YAML: {e}")))?;
            let path = format!("/api/v1/plugins/{}", segment(name));
            let existing = context.client.get(&path).await?;
            let spec = json!({ "plugin": existing["plugin"], "version": existing["version"], "config": existing["config"],
                               "secrets": existing["secrets"], "grant": grant });
            let installed = context.client.call(Method::PUT, &path, &[], Send::Json(spec)).await?;
            context.print(&installed["grant"], &[]);
            Ok(())
        }
        PluginCommand::Check { name } => {
            let path = format!("/api/v1/plugins/{}/check", segment(name));
            let result = context.client.call(Method::POST, &path, &[], Send::Nothing).await?;
            context.print(&result, &[]);
            Ok(())
        }
    }
}
