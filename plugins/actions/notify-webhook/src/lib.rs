//! `notify-webhook`: a JSON message to one configured URL, signed so that the receiver knows who sent it.
//!
//! The signature is that of `X-Orchestrix-Signature: t=<unix seconds>,v1=<hex>`, HMAC-SHA256 over `<t>.<body>`: the time is
//! inside, so that a recorded message can't be sent again later.

use orchestrix_sdk::prelude::*;

/// The installation's configuration.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifyWebhook {
    /// Where messages go.
    url: String,
    /// Whether messages are signed with the secret `signing-key`.
    #[serde(default)]
    signed: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notification {
    title: String,
    #[serde(default)]
    text: String,
    /// `info`, `warning`, `critical`, …
    #[serde(default)]
    severity: Option<String>,
    /// Whatever the receiver understands.
    #[serde(default)]
    data: Value,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct Receipt {
    status: u16,
}

#[orchestrix_sdk::action]
impl NotifyWebhook {
    #[operation]
    fn send(&self, ctx: &Context, input: Notification) -> Result<Receipt> {
        let message = json!({
            "id": ctx.idempotency_key,
            "sentAt": ctx.now / 1_000_000_000,
            "title": input.title,
            "text": input.text,
            "severity": input.severity,
            "data": input.data,
        });
        let mut request = Request::post(&self.url).header("idempotency-key", &ctx.idempotency_key).json(&message)?;
        if self.signed {
            let seconds = ctx.now / 1_000_000_000;
            let signed = [format!("{seconds}.").as_bytes(), &request.body].concat();
            let signature = secret::get("signing-key")?.sign("hmac-sha256", &signed)?;
            request = request.header("x-orchestrix-signature", format!("t={seconds},v1={}", hex(&signature)));
        }
        Effect::new("notify.webhook", http::Parts::of(&self.url)?.target())
            .summary(format!("notify: {}", input.title))
            .after(message)
            .perform(|| Ok(Receipt { status: request.send()?.success()?.status }))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrix_sdk::testing::World;

    fn ctx() -> Context {
        Context { idempotency_key: "k".into(), now: 1_700_000_000_000_000_000, ..Context::default() }
    }

    fn send(world: &World, signed: bool, input: Value) -> Result<Value> {
        let plugin = NotifyWebhook { url: "https://hooks.example/in?team=1".into(), signed };
        world.run(|| plugin.execute(&ctx(), "send", input))
    }

    #[test]
    fn a_message_is_signed_over_time_and_body() {
        let world = World::new();
        world.bind_secret("signing-key", |algorithm, data| {
            assert_eq!(algorithm, "hmac-sha256");
            assert!(data.starts_with(b"1700000000.{\"id\":\"k\""));
            Ok(vec![0xab, 0x01])
        });
        world.on_http(|_| Ok(Response { status: 202, ..Response::default() }));
        assert_eq!(send(&world, true, json!({ "title": "disk full", "severity": "critical" })), Ok(json!({ "status": 202 })));
        let request = &world.requests()[0];
        assert_eq!(request.header_value("x-orchestrix-signature"), Some("t=1700000000,v1=ab01"));
        assert_eq!(world.effects()[0].effect.target, "https://hooks.example:443/in");
    }

    #[test]
    fn without_a_bound_key_nothing_is_sent_unsigned() {
        let world = World::new();
        assert_eq!(send(&world, true, json!({ "title": "x" })).unwrap_err().code, "config.secret_missing");
        assert!(world.requests().is_empty() && world.effects().is_empty());
    }

    #[test]
    fn a_refusal_is_an_error_and_wrong_input_is_never_sent() {
        let world = World::new();
        world.on_http(|_| Ok(Response { status: 410, ..Response::default() }));
        assert_eq!(send(&world, false, json!({ "title": "x" })).unwrap_err().code, "remote.not_found");
        assert_eq!(world.effects()[0].status.as_deref(), Some("failed"));
        for input in [json!({}), json!({ "title": 1 }), json!({ "title": "x", "txt": "y" }), json!("x")] {
            assert_eq!(send(&world, false, input).unwrap_err().code, "input.invalid");
        }
        assert_eq!(world.requests().len(), 1);
    }
}
