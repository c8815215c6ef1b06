//! API tokens: who may ask, as whom, until when. The token itself is never stored, only its hash.

use crate::{Db, Error, Result, Tx};
use model::{Role, TenantId, Timestamp};
use sqlx::{Row, any::AnyRow};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// A UUID; shown and used to revoke.
    pub id: String,
    pub tenant: TenantId,
    pub name: String,
    pub role: Role,
    /// Hexadecimal SHA-256 of the token.
    pub hash: String,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
    pub revoked: Option<Timestamp>,
}

const COLUMNS: &str = "id, tenant, name, role, hash, created_ns, expires_ns, revoked_ns";

impl Tx {
    /// Refuses a token whose hash is there already.
    pub async fn add_token(&mut self, token: &Token) -> Result<()> {
        sqlx::query(
            "INSERT INTO token (id, tenant, name, role, hash, created_ns, expires_ns, revoked_ns) VALUES ($1, $2, $3, $4, $5, $6, $7, 0)",
        )
        .bind(&token.id)
        .bind(token.tenant.as_str())
        .bind(&token.name)
        .bind(token.role.as_str())
        .bind(&token.hash)
        .bind(token.created.nanos())
        .bind(token.expires.map_or(0, Timestamp::nanos))
        .execute(self.connection())
        .await
        .map_err(Error::conflict(format!("token {}", token.name)))?;
        Ok(())
    }

    /// Makes the bootstrap token of a tenant the one with this hash, valid from now on: another bootstrap
    /// token of before is revoked, this one comes back to life if it was.
    pub async fn put_bootstrap_token(&mut self, token: &Token) -> Result<()> {
        sqlx::query("UPDATE token SET revoked_ns = $4 WHERE tenant = $1 AND name = $2 AND hash <> $3 AND revoked_ns = 0")
            .bind(token.tenant.as_str())
            .bind(&token.name)
            .bind(&token.hash)
            .bind(token.created.nanos())
            .execute(self.connection())
            .await?;
        sqlx::query(
            "INSERT INTO token (id, tenant, name, role, hash, created_ns, expires_ns, revoked_ns) VALUES ($1, $2, $3, $4, $5, $6, 0, 0) \
             ON CONFLICT (hash) DO UPDATE SET revoked_ns = 0, expires_ns = 0, role = excluded.role",
        )
        .bind(&token.id)
        .bind(token.tenant.as_str())
        .bind(&token.name)
        .bind(token.role.as_str())
        .bind(&token.hash)
        .bind(token.created.nanos())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    pub async fn revoke_token(&mut self, tenant: &TenantId, id: &str, now: Timestamp) -> Result<()> {
        let done = sqlx::query("UPDATE token SET revoked_ns = $3 WHERE tenant = $1 AND id = $2 AND revoked_ns = 0")
            .bind(tenant.as_str())
            .bind(id)
            .bind(now.nanos())
            .execute(self.connection())
            .await?;
        if done.rows_affected() == 0 { Err(Error::not_found(format!("valid token {id}"))) } else { Ok(()) }
    }
}

impl Db {
    /// The token with this hash, of whatever tenant: it is the token that says who asks.
    pub async fn token_by_hash(&self, hash: &str) -> Result<Option<Token>> {
        let sql = format!("SELECT {COLUMNS} FROM token WHERE hash = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(hash).fetch_optional(self.read()).await?;
        row.as_ref().map(read).transpose()
    }

    /// The tenant's tokens, newest first, revoked ones too.
    pub async fn tokens(&self, tenant: &TenantId, rows_max: i64) -> Result<Vec<Token>> {
        let sql = format!("SELECT {COLUMNS} FROM token WHERE tenant = $1 ORDER BY created_ns DESC, id LIMIT $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str()).bind(rows_max).fetch_all(self.read()).await?;
        rows.iter().map(read).collect()
    }
}

fn read(row: &AnyRow) -> Result<Token> {
    let bad = |why: String| Error::Row { table: "token", why };
    let (tenant, role): (String, String) = (row.try_get(1)?, row.try_get(3)?);
    let optional = |ns: i64| (ns != 0).then_some(Timestamp(ns));
    Ok(Token {
        id: row.try_get(0)?,
        tenant: tenant.parse().map_err(|e: model::IdError| bad(e.to_string()))?,
        name: row.try_get(2)?,
        role: role.parse().map_err(bad)?,
        hash: row.try_get(4)?,
        created: Timestamp(row.try_get(5)?),
        expires: optional(row.try_get(6)?),
        revoked: optional(row.try_get(7)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: &str, hash: &str) -> Token {
        Token {
            id: id.into(),
            tenant: TenantId::default_tenant(),
            name: "bootstrap".into(),
            role: Role::Admin,
            hash: hash.into(),
            created: Timestamp(5),
            expires: None,
            revoked: None,
        }
    }

    #[tokio::test]
    async fn a_new_bootstrap_token_takes_the_place_of_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
        for (id, hash) in [("1", "aa"), ("2", "bb"), ("3", "bb")] {
            let token = token(id, hash);
            db.write::<_, Error, _>(move |tx| Box::pin(async move { tx.put_bootstrap_token(&token).await })).await.unwrap();
        }
        assert!(db.token_by_hash("aa").await.unwrap().unwrap().revoked.is_some());
        assert_eq!(db.token_by_hash("bb").await.unwrap().unwrap(), token("2", "bb"));
    }

    #[tokio::test]
    async fn another_tenant_cannot_revoke_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
        let mine = token("1", "aa");
        let refused = db
            .write::<_, Error, _>(move |tx| {
                Box::pin(async move {
                    tx.add_token(&mine).await?;
                    Ok(tx.revoke_token(&TenantId::new("other").unwrap(), "1", Timestamp(9)).await.is_err())
                })
            })
            .await
            .unwrap();
        assert!(refused);
        assert_eq!(db.token_by_hash("aa").await.unwrap().unwrap().revoked, None);
    }
}
