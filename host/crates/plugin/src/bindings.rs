//! The contract's Rust side, made from `wit/`: all that a guest may import, and every interface it may export.
//! Exports are looked up one by one, so a component may have any mix of them.

wasmtime::component::bindgen!({
    path: "../../../wit",
    inline: "
        package orchestrix:host;
        world everything {
            import orchestrix:plugin/log@0.1.0;
            import orchestrix:plugin/config@0.1.0;
            import orchestrix:plugin/self-metrics@0.1.0;
            import orchestrix:plugin/state@0.1.0;
            import orchestrix:plugin/credentials@0.1.0;
            import orchestrix:plugin/effects@0.1.0;
            import orchestrix:plugin/telemetry@0.1.0;
            import orchestrix:plugin/invocation@0.1.0;
            import orchestrix:plugin/net@0.1.0;
            export orchestrix:plugin/lifecycle@0.1.0;
            export orchestrix:plugin/detector@0.1.0;
            export orchestrix:plugin/stream-detector@0.1.0;
            export orchestrix:plugin/action@0.1.0;
            export orchestrix:plugin/verification@0.1.0;
        }
    ",
    imports: {
        "orchestrix:plugin/log": trappable,
        "orchestrix:plugin/config": trappable,
        "orchestrix:plugin/self-metrics": trappable,
        default: async | trappable,
    },
    exports: { default: async },
    require_store_data_send: true,
    with: {
        "wasi:io": wasmtime_wasi::p2::bindings::io,
        "orchestrix:plugin/credentials.secret": crate::capability::secret::Handle,
        "orchestrix:plugin/effects.permit": crate::capability::effect::Permit,
        "orchestrix:plugin/telemetry.log-pages": crate::capability::telemetry::LogPages,
        "orchestrix:plugin/telemetry.span-pages": crate::capability::telemetry::SpanPages,
    },
});

pub(crate) use orchestrix::plugin as import;
pub(crate) mod export {
    pub(crate) use super::exports::orchestrix::plugin::*;
}
