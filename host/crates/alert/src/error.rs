//! What stops the alert stage for a moment. Nothing is lost: the cursor did not move.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the alert stage could not read or write its state")]
    Db(#[from] db::Error),
}
