//! `credentials`: handles instead of secrets. What a protocol needs of a secret is computed here.

use crate::{
    bindings::import::{credentials, types::PluginError},
    call::{Call, LoadedSecret},
    convert::plugin_error,
    egress::must_be_bound,
    error::refuse,
    store::State,
};
use hmac::{Hmac, KeyInit, Mac};
use model::ErrorRecord;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Instant};
use wasmtime::{Result, component::Resource};
use wasmtime_wasi::p2::DynOutputStream;

/// PostgreSQL uses 4,096; more than this is a server that wants to burn our CPU.
const SCRAM_ROUNDS_MAX: u32 = 100_000;

/// The guest's handle on a secret.
pub struct Handle(Arc<LoadedSecret>);

impl credentials::Host for State {
    async fn get(&mut self, name: String) -> Result<Result<Resource<Handle>, PluginError>> {
        let (call, began) = (self.call.clone(), Instant::now());
        let result = call.secret(&name).await;
        let shown = result.as_ref().map(|s| json!(s.placeholder)).map_err(Clone::clone);
        call.record("credentials.get", began, json!({ "name": name }), shown);
        match result {
            Ok(secret) => Ok(Ok(self.table.push(Handle(secret))?)),
            Err(error) => Ok(Err(plugin_error(&error))),
        }
    }
}

impl credentials::HostSecret for State {
    async fn placeholder(&mut self, secret: Resource<Handle>) -> Result<String> {
        Ok(self.table.get(&secret)?.0.placeholder.clone())
    }

    async fn sign(&mut self, secret: Resource<Handle>, algorithm: String, data: Vec<u8>) -> Result<Result<Vec<u8>, PluginError>> {
        let (call, began, secret) = (self.call.clone(), Instant::now(), self.table.get(&secret)?.0.clone());
        let result = match algorithm.as_str() {
            "hmac-sha256" => Ok(hmac(&secret.value.bytes, &data).to_vec()),
            other => Err(refuse("credentials.unknown_algorithm", format!("{other:?} is unknown: this host has hmac-sha256"))),
        };
        record(&call, "credentials.sign", began, &secret, &algorithm, &result);
        Ok(result.map_err(|e| plugin_error(&e)))
    }

    async fn prove(
        &mut self,
        secret: Resource<Handle>,
        mechanism: String,
        challenge: Vec<u8>,
    ) -> Result<Result<Vec<u8>, PluginError>> {
        let (call, began, secret) = (self.call.clone(), Instant::now(), self.table.get(&secret)?.0.clone());
        let result = match mechanism.as_str() {
            "scram-sha-256" => {
                let password = secret.clone();
                // Thousands of rounds of SHA-256 don't belong on an async thread.
                tokio::task::spawn_blocking(move || scram_sha_256(&password.value.bytes, &challenge))
                    .await
                    .unwrap_or_else(|e| Err(refuse("host.internal", e.to_string())))
            }
            other => Err(refuse("credentials.unknown_mechanism", format!("{other:?} is unknown: this host has scram-sha-256"))),
        };
        record(&call, "credentials.prove", began, &secret, &mechanism, &result);
        Ok(result.map_err(|e| plugin_error(&e)))
    }

    async fn send(&mut self, secret: Resource<Handle>, to: Resource<DynOutputStream>) -> Result<Result<(), PluginError>> {
        let (call, began, secret) = (self.call.clone(), Instant::now(), self.table.get(&secret)?.0.clone());
        let target =
            self.sockets.iter().find(|(rep, alive, _)| *rep == to.rep() && alive.strong_count() > 0).map(|(_, _, t)| t.clone());
        let result = match target {
            None => Err(call.deny("permission.secret_not_bound", "a secret is sent only into a connection of `net`")),
            Some(target) => must_be_bound(&call, &secret, &target),
        };
        record(&call, "credentials.send", began, &secret, "raw", &result);
        if let Err(error) = result {
            return Ok(Err(plugin_error(&error)));
        }
        let stream = self.table.get_mut(&to)?;
        match stream.blocking_write_and_flush(secret.value.bytes.clone().into()).await {
            Ok(()) => Ok(Ok(())),
            Err(error) => Ok(Err(plugin_error(&refuse("remote.failed", format!("the connection broke: {error}"))))),
        }
    }

    async fn reveal(&mut self, secret: Resource<Handle>) -> Result<Result<Vec<u8>, PluginError>> {
        let (call, began, secret) = (self.call.clone(), Instant::now(), self.table.get(&secret)?.0.clone());
        let result = call.rights().reveal(&secret.name).map_err(|why| call.deny("permission.denied", why));
        record(&call, "credentials.reveal", began, &secret, "clear", &result);
        tracing::info!(
            tenant = %call.context.tenant, installation = call.installation.name, secret = secret.name,
            invocation = %call.context.invocation, is_granted = result.is_ok(), "plugin asked for a secret in clear"
        );
        Ok(result.map(|()| secret.value.bytes.clone()).map_err(|e| plugin_error(&e)))
    }

    async fn drop(&mut self, secret: Resource<Handle>) -> Result<()> {
        self.table.delete(secret)?;
        Ok(())
    }
}

/// Which secret and how, never its value or what was made of it.
fn record<T>(call: &Call, import: &str, began: Instant, secret: &LoadedSecret, how: &str, result: &Result<T, ErrorRecord>) {
    let shown = result.as_ref().map(|_| json!("done")).map_err(Clone::clone);
    call.record(import, began, json!({ "secret": secret.name, "how": how }), shown);
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

/// RFC 5802 and 7677. The challenge is the AuthMessage (client-first-bare, server-first, client-final without
/// proof, joined by commas); the answer is ClientProof and then ServerSignature, 32 bytes each.
fn scram_sha_256(password: &[u8], auth_message: &[u8]) -> Result<Vec<u8>, ErrorRecord> {
    use base64::Engine as _;
    let bad = |why: &str| refuse("credentials.bad_challenge", format!("the SCRAM AuthMessage {why}"));
    let text = std::str::from_utf8(auth_message).map_err(|_| bad("is no text"))?;
    // Server-first follows the client's bare message, whose own attributes are n and r.
    let attribute = |name: &str| text.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let salt = attribute("s").ok_or_else(|| bad("has no salt"))?;
    let salt = base64::engine::general_purpose::STANDARD.decode(salt).map_err(|_| bad("has a salt that is no base64"))?;
    let rounds: u32 = attribute("i").and_then(|i| i.parse().ok()).ok_or_else(|| bad("has no iteration count"))?;
    if !(1..=SCRAM_ROUNDS_MAX).contains(&rounds) {
        return Err(bad(&format!("asks for {rounds} rounds; up to {SCRAM_ROUNDS_MAX} are taken")));
    }
    let mut block = salt;
    block.extend_from_slice(&1_u32.to_be_bytes());
    let mut last = hmac(password, &block);
    let mut salted = last;
    for _ in 1..rounds {
        last = hmac(password, &last);
        salted.iter_mut().zip(last).for_each(|(sum, byte)| *sum ^= byte);
    }
    let client_key = hmac(&salted, b"Client Key");
    let signature = hmac(&Sha256::digest(client_key), auth_message);
    let mut answer: Vec<u8> = client_key.iter().zip(signature).map(|(key, byte)| key ^ byte).collect();
    answer.extend_from_slice(&hmac(&hmac(&salted, b"Server Key"), auth_message));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn scram_answers_as_in_rfc_7677() {
        let auth = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let answer = scram_sha_256(b"pencil", auth.as_bytes()).unwrap();
        assert_eq!(STANDARD.encode(&answer[..32]), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert_eq!(STANDARD.encode(&answer[32..]), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_hostile_challenge_is_refused() {
        for bad in ["", "s=W22Z,i=0", "s=W22Z,i=4294967295", "s=!,i=1", "i=4096", "s=W22Z,i=-1"] {
            assert_eq!(scram_sha_256(b"p", bad.as_bytes()).unwrap_err().code, "credentials.bad_challenge", "{bad}");
        }
        assert!(scram_sha_256(b"p", &[0xff]).is_err());
    }
}
