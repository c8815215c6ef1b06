//! A guest for the sandbox's tests: each operation misbehaves in one way.
#![allow(unsafe_code, clippy::all)]

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package testing:hostile;
        world hostile {
            import orchestrix:plugin/log@0.1.0;
            import orchestrix:plugin/credentials@0.1.0;
            import wasi:clocks/monotonic-clock@0.2.12;
            import wasi:cli/environment@0.2.12;
            import wasi:cli/stdout@0.2.12;
            import wasi:filesystem/preopens@0.2.12;
            export orchestrix:plugin/action@0.1.0;
            export orchestrix:plugin/detector@0.1.0;
        }
    ",
    world: "testing:hostile/hostile",
    generate_all,
});

use exports::orchestrix::plugin::{action, detector};
use orchestrix::plugin::{
    log,
    types::{CallContext, Finding, OperationRequest, PluginError},
};
use wasi::{cli, clocks::monotonic_clock, filesystem};

struct Hostile;
export!(Hostile);

impl action::Guest for Hostile {
    fn execute(_: CallContext, request: OperationRequest) -> Result<String, PluginError> {
        std::panic::set_hook(Box::new(|info| log::emit("error", &info.to_string(), &[])));
        match request.operation.as_str() {
            "loop" => spin(),
            "sleep" => monotonic_clock::subscribe_duration(3_600_000_000_000).block(),
            "memory" => fill(),
            "many-handles" => {
                let held: Vec<_> = (0..1_000_000).map(|_| monotonic_clock::subscribe_duration(1)).collect();
                log::emit("info", &held.len().to_string(), &[]);
            }
            "recurse" => log::emit("info", &recurse(1).to_string(), &[]),
            "panic" => panic!("boom on purpose"),
            "big-answer" => return Ok(format!("\"{}\"", "x".repeat(100 << 20))),
            "big-log" => log::emit("info", &"x".repeat(100 << 20), &[]),
            "log-flood" => (0..10_000).for_each(|i| log::emit("info", &format!("line {i}"), &[])),
            "no-json" => return Ok("{".into()),
            "wrong-output" => return Ok("{\"other\":1}".into()),
            "files" => {
                let out = cli::stdout::get_stdout();
                let _ = out.blocking_write_and_flush(b"a line on stdout\nand half a one");
                let seen = [
                    filesystem::preopens::get_directories().len(),
                    cli::environment::get_environment().len(),
                    cli::environment::get_arguments().len(),
                ];
                return Ok(format!("{seen:?}"));
            }
            _ => return Ok(request.input),
        }
        Ok("null".into())
    }
}

impl detector::Guest for Hostile {
    fn evaluate(_: CallContext, request: detector::Evaluation) -> Result<Vec<Finding>, PluginError> {
        match request.monitor.as_str() {
            "loop" => spin(),
            "memory" => fill(),
            _ => {}
        }
        Ok(Vec::new())
    }
}

fn spin() {
    let mut n = 0_u64;
    loop {
        n = core::hint::black_box(n.wrapping_add(1));
    }
}

fn fill() {
    let mut held = Vec::new();
    loop {
        held.push(core::hint::black_box(vec![1_u8; 1 << 20]));
    }
}

#[allow(unconditional_recursion)]
fn recurse(n: u64) -> u64 {
    let frame = core::hint::black_box([n; 64]);
    recurse(n + 1) + core::hint::black_box(frame)[7]
}
