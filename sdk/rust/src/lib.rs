//! orchestrix-sdk
