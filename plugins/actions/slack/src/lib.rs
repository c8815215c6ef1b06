//! `slack`: messages through the Web API (`chat.postMessage`, `chat.update`) or an incoming webhook.

use orchestrix_sdk::prelude::*;

/// The installation's configuration.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slack {
    /// Where the Web API is: `https://slack.com/api`. The host lets the plugin reach this origin only.
    base_url: String,
    /// Path of an incoming webhook under `base_url`; then no token is needed, and messages can't be changed.
    #[serde(default)]
    webhook_path: Option<String>,
    /// Where messages go that name no channel.
    #[serde(default)]
    channel: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Post {
    #[serde(default)]
    channel: Option<String>,
    /// Shown in notifications, and where blocks can't be.
    text: String,
    /// Block Kit.
    #[serde(default)]
    blocks: Option<Vec<Value>>,
    /// Colours a bar beside the message: `good`, `warning`, `danger` or `#rrggbb`.
    #[serde(default)]
    color: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// As `post` returned it.
    channel: String,
    /// As `post` returned it.
    ts: String,
    text: String,
    #[serde(default)]
    blocks: Option<Vec<Value>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    channel: String,
    /// `ts` of the message that begins the thread.
    thread_ts: String,
    text: String,
    #[serde(default)]
    blocks: Option<Vec<Value>>,
    /// Shows the answer in the channel too.
    #[serde(default)]
    broadcast: bool,
}

/// Names the message; both are empty behind an incoming webhook, which doesn't tell.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    #[serde(default)]
    channel: String,
    #[serde(default)]
    ts: String,
}

/// What the Web API answers, always with status 200.
#[derive(Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    error: String,
    #[serde(flatten)]
    message: Message,
}

#[orchestrix_sdk::action]
impl Slack {
    #[operation]
    fn post(&self, _ctx: &Context, input: Post) -> Result<Message> {
        let channel = match (input.channel, &self.channel, &self.webhook_path) {
            (Some(channel), _, _) => channel,
            (None, Some(channel), _) => channel.clone(),
            // A webhook has its channel.
            (None, None, Some(_)) => "webhook".into(),
            (None, None, None) => return Err(Error::input("name a channel, or configure a default one")),
        };
        let mut body = json!({ "channel": channel, "text": input.text });
        if let Some(blocks) = input.blocks {
            body["blocks"] = blocks.into();
        }
        if let Some(color) = input.color {
            // Only attachments have colours; their fallback is the text.
            let attachment = json!({ "color": color, "fallback": input.text, "blocks": body["blocks"] });
            body["attachments"] = json!([attachment]);
        }
        self.send("slack.message.post", "chat.postMessage", &channel, body)
    }

    #[operation]
    fn update(&self, _ctx: &Context, input: Update) -> Result<Message> {
        if self.webhook_path.is_some() {
            return Err(Error::config("an incoming webhook can't change messages: configure the Web API with a token"));
        }
        let target = format!("{}/{}", input.channel, input.ts);
        let mut body = json!({ "channel": input.channel, "ts": input.ts, "text": input.text });
        if let Some(blocks) = input.blocks {
            body["blocks"] = blocks.into();
        }
        self.send("slack.message.update", "chat.update", &target, body)
    }

    #[operation]
    fn reply(&self, _ctx: &Context, input: Reply) -> Result<Message> {
        let mut body = json!({ "channel": input.channel, "thread_ts": input.thread_ts, "text": input.text });
        if input.broadcast {
            body["reply_broadcast"] = true.into();
        }
        if let Some(blocks) = input.blocks {
            body["blocks"] = blocks.into();
        }
        self.send("slack.message.post", "chat.postMessage", &input.channel, body)
    }

    #[check]
    fn check(&self, _ctx: &Context) -> Result<Value> {
        if self.webhook_path.is_some() {
            return Ok(json!({ "note": "an incoming webhook can't be tested without posting" }));
        }
        let answer: Value = Request::get(self.url("auth.test")).send()?.success()?.json()?;
        if answer["ok"] != true {
            return Err(refusal(answer["error"].as_str().unwrap_or("")));
        }
        Ok(json!({ "team": answer["team"], "user": answer["user"] }))
    }
}

impl Slack {
    fn send(&self, kind: &str, method: &str, target: &str, body: Value) -> Result<Message> {
        let url = match &self.webhook_path {
            Some(path) => format!("{}/{}", self.base_url.trim_end_matches('/'), path.trim_start_matches('/')),
            None => self.url(method),
        };
        let effect =
            Effect::new(kind, format!("{}/{target}", http::Parts::of(&url)?.host)).summary(summary(&body)).after(body.clone());
        effect.perform(|| {
            let response = Request::post(&url).json(&body)?.send()?.success()?;
            if self.webhook_path.is_some() {
                // An incoming webhook says just "ok".
                return Ok(response.json().unwrap_or_default());
            }
            let answer: Answer = response.json()?;
            if answer.ok { Ok(answer.message) } else { Err(refusal(&answer.error)) }
        })
    }

    fn url(&self, method: &str) -> String {
        format!("{}/{method}", self.base_url.trim_end_matches('/'))
    }
}

/// Slack's error words, as the errors workflows know.
fn refusal(word: &str) -> Error {
    let message = format!("Slack refused: {word}");
    let error = match word {
        "invalid_auth" | "not_authed" | "token_revoked" | "token_expired" | "account_inactive" | "missing_scope" => {
            Error::new("remote.unauthorized", message)
        }
        "channel_not_found" | "message_not_found" | "thread_not_found" => Error::new("remote.not_found", message),
        "ratelimited" | "rate_limited" => Error::new("remote.rate_limited", message).retry_after_ms(30_000),
        "internal_error" | "fatal_error" | "service_unavailable" => {
            Error::new("remote.unavailable", message).retry_after_ms(1_000)
        }
        _ => Error::new("remote.refused", message),
    };
    error.details(json!({ "error": word }))
}

/// The first line of the text, for the ledger.
fn summary(body: &Value) -> String {
    let text = body["text"].as_str().unwrap_or("").lines().next().unwrap_or("");
    format!("tell {}: {}", body["channel"].as_str().unwrap_or(""), text.chars().take(120).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrix_sdk::testing::{World, json as answer};

    fn slack() -> Slack {
        Slack { base_url: "https://slack.com/api".into(), webhook_path: None, channel: None }
    }

    fn run(world: &World, slack: &Slack, operation: &str, input: Value) -> Result<Value> {
        world.run(|| slack.execute(&Context::default(), operation, input))
    }

    #[test]
    fn a_message_is_posted_with_blocks_and_answered_with_its_name() {
        let world = World::new();
        world.on_http(|_| Ok(answer(200, &json!({ "ok": true, "channel": "C1", "ts": "1.2", "message": {} }))));
        let blocks = json!([{ "type": "section", "text": { "type": "mrkdwn", "text": "*CPU* at 95 %" } }]);
        let posted = run(&world, &slack(), "post", json!({ "channel": "#ops", "text": "CPU high\nmore", "blocks": blocks }));
        assert_eq!(posted, Ok(json!({ "channel": "C1", "ts": "1.2" })));
        let request = &world.requests()[0];
        assert_eq!(request.url, "https://slack.com/api/chat.postMessage");
        let body: Value = serde_json(&request.body);
        assert_eq!(body, json!({ "channel": "#ops", "text": "CPU high\nmore", "blocks": blocks }));
        let effect = &world.effects()[0];
        assert_eq!((effect.effect.kind.as_str(), effect.effect.target.as_str()), ("slack.message.post", "slack.com/#ops"));
        assert_eq!(effect.effect.summary, "tell #ops: CPU high");
    }

    #[test]
    fn a_message_is_changed_and_answered_in_its_thread() {
        let world = World::new();
        world.on_http(|_| Ok(answer(200, &json!({ "ok": true, "channel": "C1", "ts": "1.3" }))));
        run(&world, &slack(), "update", json!({ "channel": "C1", "ts": "1.2", "text": "solved" })).unwrap();
        run(&world, &slack(), "reply", json!({ "channel": "C1", "thread_ts": "1.2", "text": "scaled", "broadcast": true }))
            .unwrap();
        let requests = world.requests();
        assert!(requests[0].url.ends_with("/chat.update"));
        assert_eq!(
            serde_json(&requests[1].body),
            json!({ "channel": "C1", "thread_ts": "1.2", "text": "scaled", "reply_broadcast": true })
        );
        assert_eq!(world.effects()[0].effect.target, "slack.com/C1/1.2");
    }

    #[test]
    fn an_incoming_webhook_posts_and_can_not_change() {
        let world = World::new();
        world.on_http(|_| Ok(Response { status: 200, headers: vec![], body: b"ok".to_vec() }));
        let slack = Slack {
            base_url: "http://127.0.0.1:8090".into(),
            webhook_path: Some("/services/T/B/x".into()),
            channel: Some("ops".into()),
        };
        assert_eq!(run(&world, &slack, "post", json!({ "text": "hi" })), Ok(json!({ "channel": "", "ts": "" })));
        assert_eq!(world.requests()[0].url, "http://127.0.0.1:8090/services/T/B/x");
        assert_eq!(world.effects()[0].effect.target, "127.0.0.1/ops");
        let error = run(&world, &slack, "update", json!({ "channel": "C", "ts": "1", "text": "x" })).unwrap_err();
        assert_eq!(error.code, "config.invalid");
    }

    #[test]
    fn slacks_words_become_errors_that_workflows_know() {
        for (word, code) in [
            ("invalid_auth", "remote.unauthorized"),
            ("channel_not_found", "remote.not_found"),
            ("ratelimited", "remote.rate_limited"),
            ("internal_error", "remote.unavailable"),
            ("msg_too_long", "remote.refused"),
        ] {
            let world = World::new();
            world.on_http(move |_| Ok(answer(200, &json!({ "ok": false, "error": word }))));
            let error = run(&world, &slack(), "post", json!({ "channel": "c", "text": "x" })).unwrap_err();
            assert_eq!(error.code, code);
            assert!(error.message.contains(word));
        }
    }

    #[test]
    fn an_answer_that_is_no_json_and_a_missing_channel_are_errors() {
        let world = World::new();
        world.on_http(|_| Ok(Response { status: 200, headers: vec![], body: b"<html>".to_vec() }));
        assert_eq!(run(&world, &slack(), "post", json!({ "channel": "c", "text": "x" })).unwrap_err().code, "remote.protocol");
        assert_eq!(run(&world, &slack(), "post", json!({ "text": "x" })).unwrap_err().code, "input.invalid");
        assert_eq!(run(&world, &slack(), "post", json!({ "text": 3 })).unwrap_err().code, "input.invalid");
    }

    #[test]
    fn the_connection_test_tells_who_one_is() {
        let world = World::new();
        world.on_http(|_| Ok(answer(200, &json!({ "ok": true, "team": "T", "user": "bot" }))));
        assert_eq!(world.run(|| slack().check(&Context::default())), Ok(json!({ "team": "T", "user": "bot" })));
        world.on_http(|_| Ok(answer(200, &json!({ "ok": false, "error": "not_authed" }))));
        assert_eq!(world.run(|| slack().check(&Context::default())).unwrap_err().code, "remote.unauthorized");
    }

    fn serde_json(bytes: &[u8]) -> Value {
        std::str::from_utf8(bytes).unwrap().parse().unwrap()
    }
}
