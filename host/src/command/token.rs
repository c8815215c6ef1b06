//! `orchestrix token`

use super::Context;
use crate::{
    cli::TokenCommand,
    client::{Result, Send, segment},
};
use reqwest::Method;
use serde_json::json;

pub async fn run(context: &Context, command: &TokenCommand) -> Result<()> {
    match command {
        TokenCommand::List => super::resource::get(context, "tokens", None).await,
        TokenCommand::Create { name, role, expires_in } => {
            let mut body = json!({ "name": name, "role": role });
            if let Some(expires) = expires_in {
                body["expiresIn"] = json!(expires);
            }
            let made = context.client.call(Method::POST, "/api/v1/tokens", &[], Send::Json(body)).await?;
            context.print(&made, &[]);
            Ok(())
        }
        TokenCommand::Revoke { id } => {
            context.client.call(Method::DELETE, &format!("/api/v1/tokens/{}", segment(id)), &[], Send::Nothing).await?;
            context.say(format_args!("revoked {id}"));
            Ok(())
        }
    }
}
