//! orchestrix-sdk-macros
