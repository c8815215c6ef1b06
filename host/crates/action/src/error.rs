//! What stops the action stage for a moment. Nothing is lost: what was taken over is in the database.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the action stage could not read or write its state")]
    Db(#[from] db::Error),
}
