//! Makes sure that there is a page to embed: without Node, a plain one that says it was not built.

use std::{env, fs, path::PathBuf};

fn main() {
    let dist = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../web/dist");
    if !dist.join("index.html").is_file() {
        let page = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Orchestrix</title>\
                    <p>The page was not built. Run <code>cargo xtask up</code>, or <code>npm run build</code> in <code>host/web</code> \
                    and build again. The API is at <a href=\"/api/v1/openapi.json\">/api/v1/openapi.json</a>.</p></html>\n";
        fs::create_dir_all(&dist).expect("host/web is writable");
        fs::write(dist.join("index.html"), page).expect("host/web/dist is writable");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", dist.display());
    println!("cargo::rustc-env=ORX_WEB_DIST={}", dist.display());
}
