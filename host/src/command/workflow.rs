//! `orchestrix workflow`

use super::{Context, resource};
use crate::{
    cli::WorkflowCommand,
    client::{Failure, Result, Send, segment},
};
use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// How often `run --wait` looks.
const POLL: Duration = Duration::from_millis(300);

pub async fn run(context: &Context, command: &WorkflowCommand) -> Result<()> {
    match command {
        WorkflowCommand::Run { name, input, wait } => {
            let text = match input.strip_prefix('@') {
                Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?,
                None => input.clone(),
            };
            let input: Value =
                serde_json::from_str(&text).map_err(|e| Failure::Refused(format!("the input is not JSON: {e}")))?;
            let path = format!("/api/v1/workflows/{}/runs", segment(name));
            let mut run = context.client.call(Method::POST, &path, &[], Send::Json(input)).await?;
            if *wait {
                run = until_ended(context, run["id"].as_str().unwrap_or_default()).await?;
            }
            context.print(&run, &[]);
            match run["status"].as_str() {
                Some(status @ ("faulted" | "failed" | "cancelled")) => Err(Failure::Refused(format!("the run is {status}"))),
                _ => Ok(()),
            }
        }
        WorkflowCommand::List { workflow, status } => {
            let mut query = Vec::new();
            query.extend(workflow.iter().map(|w| ("workflow", w.clone())));
            query.extend(status.iter().map(|s| ("status", s.clone())));
            let runs = context.client.get_with("/api/v1/runs", &query).await?;
            context.print(&runs, &["id", "workflow", "status", "started", "ended"]);
            Ok(())
        }
        WorkflowCommand::Show { id } => resource::get(context, "run", Some(id)).await,
        WorkflowCommand::Cancel { id, reason } => {
            let path = format!("/api/v1/runs/{}/cancel", segment(id));
            context.client.call(Method::POST, &path, &[], Send::Json(json!({ "reason": reason }))).await?;
            context.say(format_args!("cancelled {id}"));
            Ok(())
        }
        WorkflowCommand::Answer { id, step, deny, comment } => {
            let mut body = json!({ "approved": !deny });
            if let Some(step) = step {
                body["step"] = json!(step);
            }
            if let Some(comment) = comment {
                body["comment"] = json!(comment);
            }
            let path = format!("/api/v1/runs/{}/answer", segment(id));
            context.client.call(Method::POST, &path, &[], Send::Json(body)).await?;
            context.say(format_args!("{} {id}", if *deny { "refused" } else { "approved" }));
            Ok(())
        }
        WorkflowCommand::Validate { file } => {
            let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let send = Send::Raw { content_type: "application/yaml", bytes };
            let result = context.client.call(Method::POST, "/api/v1/workflows/validate", &[], send).await?;
            context.print(&result, &[]);
            Ok(())
        }
    }
}

async fn until_ended(context: &Context, id: &str) -> Result<Value> {
    let path = format!("/api/v1/runs/{}", segment(id));
    loop {
        let run = context.client.get(&path).await?;
        if !run["ended"].is_null() {
            return Ok(run);
        }
        tokio::time::sleep(POLL).await;
    }
}
