//! What is known of each metric: kind, help, unit. Kept in memory, logged when it changes, written whole at each flush.

use super::{
    batch::{put_metadata, put_text, take_metadata, take_text},
    varint,
};
use crate::{Corruption, Error, Result, wal::sync_dir};
use ahash::HashMap;
use cap_std::fs::Dir;
use model::{MetricMetadata, TenantId};
use std::collections::BTreeMap;

const NAME: &str = "metadata";
const MAGIC: &[u8; 8] = b"ORXMMET\x01";

/// By tenant and metric.
#[derive(Debug, Default, PartialEq)]
pub struct MetadataTable(HashMap<TenantId, BTreeMap<String, MetricMetadata>>);

impl MetadataTable {
    /// Whether storing it would change anything: senders repeat themselves each minute.
    pub fn is_news(&self, tenant: &TenantId, metadata: &MetricMetadata) -> bool {
        self.0.get(tenant).and_then(|all| all.get(&metadata.name)) != Some(metadata)
    }

    /// Whether another metric of the tenant has room.
    pub fn has_room(&self, tenant: &TenantId, name: &str) -> bool {
        self.0.get(tenant).is_none_or(|all| all.len() < model::limits::METADATA_PER_TENANT_MAX || all.contains_key(name))
    }

    pub fn insert(&mut self, tenant: &TenantId, metadata: MetricMetadata) {
        self.0.entry(tenant.clone()).or_default().insert(metadata.name.clone(), metadata);
    }

    pub fn list(&self, tenant: &TenantId, metric: Option<&str>) -> Vec<MetricMetadata> {
        let Some(all) = self.0.get(tenant) else { return Vec::new() };
        match metric {
            Some(metric) => all.get(metric).cloned().into_iter().collect(),
            None => all.values().cloned().collect(),
        }
    }

    /// Writes the table so that it is whole or the one before.
    pub fn save(&self, dir: &Dir) -> Result<()> {
        let mut body = Vec::new();
        varint::write(&mut body, self.0.len() as u64);
        for (tenant, all) in &self.0 {
            put_text(&mut body, tenant.as_str());
            put_metadata(&mut body, &all.values().cloned().collect::<Vec<_>>());
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        let fail = |e| Error::io("writing the metadata of metrics", e);
        let mut file = dir.create("metadata.tmp").map_err(fail)?;
        std::io::Write::write_all(&mut file, &bytes).and_then(|()| file.sync_all()).map_err(fail)?;
        dir.rename("metadata.tmp", dir, NAME).map_err(fail)?;
        sync_dir(dir)
    }

    /// Reads the table; a damaged one is told to `note` and begins empty: senders repeat metadata.
    pub fn load(dir: &Dir, note: &mut dyn FnMut(Corruption)) -> Result<Self> {
        let bytes = match dir.read(NAME) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::io("reading the metadata of metrics", e)),
        };
        Ok(Self::decode(&bytes).unwrap_or_else(|| {
            let reason = "the file doesn't check out; metadata begins empty and comes back with the next scrape".into();
            note(Corruption { file: format!("metrics/{NAME}"), offset: 0, reason });
            Self::default()
        }))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut body = bytes.strip_prefix(MAGIC)?;
        let crc = body.split_off(..4)?;
        if crc != crc32fast::hash(body).to_le_bytes() {
            return None;
        }
        let mut table = Self::default();
        for _ in 0..varint::read(&mut body)? {
            let tenant = TenantId::new(take_text(&mut body)?).ok()?;
            for metadata in take_metadata(&mut body)? {
                table.insert(&tenant, metadata);
            }
        }
        body.is_empty().then_some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_reads_back_and_any_flipped_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(folder.path(), cap_std::ambient_authority()).unwrap();
        let tenant = TenantId::default_tenant();
        let mut table = MetadataTable::default();
        table.insert(&tenant, MetricMetadata { name: "up".into(), help: "is it?".into(), ..MetricMetadata::default() });
        table.save(&dir).unwrap();
        let load = |expect_notes| {
            let mut notes = 0;
            let table = MetadataTable::load(&dir, &mut |_| notes += 1).unwrap();
            assert_eq!(notes, expect_notes);
            table
        };
        assert_eq!(load(0), table);
        let bytes = dir.read(NAME).unwrap();
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x10;
            dir.write(NAME, &bad).unwrap();
            assert_eq!(load(1), MetadataTable::default(), "byte {i}");
        }
    }
}
