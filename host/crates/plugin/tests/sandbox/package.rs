//! Loading: what is refused, and that the cache is never believed.

use crate::world::{World, component};
use bytes::Bytes;
use plugin::{Error, Host, HostConfig, Ports};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn damaged_truncated_and_oversized_components_are_refused() {
    let world = World::new();
    let whole = component("hostile");
    for cut in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        assert!(world.host.load(whole.slice(..cut)).await.is_err(), "cut at {cut}");
    }
    let mut flipped = whole.to_vec();
    for byte in flipped.iter_mut().skip(500).step_by(97) {
        *byte ^= 0x55;
    }
    assert!(world.host.load(flipped.into()).await.is_err());
    let huge = Bytes::from(vec![0; model::limits::COMPONENT_BYTES_MAX + 1]);
    assert!(matches!(world.host.load(huge).await, Err(Error::TooLarge { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_cache_is_found_out_and_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new();
    let host = || {
        let cache_dir = cap_std::fs::Dir::open_ambient_dir(dir.path(), cap_std::ambient_authority()).unwrap();
        let seen = world.seen.clone();
        let ports = Ports {
            clock: world.clock.clone(),
            telemetry: seen.clone(),
            state: seen.clone(),
            secrets: seen.clone(),
            effects: seen.clone(),
            recorder: seen.clone(),
            log: seen.clone(),
        };
        Host::new(HostConfig { cache_dir: Some(cache_dir), instances_max: 4, ..HostConfig::default() }, ports).unwrap()
    };
    let installation = world.install("hostile").await;
    host().load(component("hostile")).await.unwrap();
    let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle..middle + 64].iter_mut().for_each(|b| *b ^= 0xff);
    std::fs::write(&file, &bad).unwrap();
    let restarted = host();
    restarted.load(component("hostile")).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap().len(), good.len());
    assert_ne!(std::fs::read(&file).unwrap(), bad);
    let call = plugin::ActionCall { operation: "well".into(), input: json!({"n": 1}) };
    assert_eq!(restarted.execute(&installation, crate::world::context(), &call).await, Ok(json!({"n": 1})));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_first_party_plugin_loads_from_the_pool() {
    let world = World::new();
    for guest in ["threshold", "log-pattern", "absence", "http", "slack", "kubernetes", "postgres", "notify-webhook"] {
        let package = world.host.load(component(guest)).await.unwrap_or_else(|e| panic!("{guest}: {e}"));
        assert_eq!(package.manifest.id, format!("orchestrix/{guest}"));
        assert!(package.is_pooled(), "{guest}");
    }
}
