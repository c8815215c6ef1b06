//! The DSL's conformance features (Gherkin), run against the interpreter.
