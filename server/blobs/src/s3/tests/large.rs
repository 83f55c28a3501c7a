//! Parts that are longer than those that are gathered in memory.

use super::*;

/// Limits with which a part is put together from up to four.
pub(super) const LARGE_PARTS: Limits = Limits {
    max_parts: 10_000,
    max_gathered: 300,
    first_pause: Duration::from_millis(100),
    completing: Duration::from_secs(60),
};

/// Opens a store that gathers less than a part.
async fn narrow_node(server: &FaultyS3, who: &str) -> S3Store {
    node_with(server, who, LARGE_PARTS, |config| config).await
}

async fn append(store: &S3Store, growth: Growth, all: &[u8]) -> Box<dyn domain::StagedBlob> {
    let mut staged = store.stage(&key(), growth).await.unwrap();
    let begin = usize::try_from(growth.offset).unwrap();
    for chunk in all[begin..].chunks(170) {
        staged.write(chunk.to_vec().into()).await.unwrap();
    }
    staged
}

#[tokio::test]
async fn large_parts_are_put_together_on_the_server() {
    let server = FaultyS3::start().await;
    let whole = bytes(5 * PART + 700, 1);
    let stores = [
        narrow_node(&server, "a").await,
        narrow_node(&server, "b").await,
    ];
    let mut at = at(0, 1);
    // A writer stops in the middle of a part, and another node continues; the last one publishes.
    for (n, end) in [2 * PART + 450, 3 * PART + 10, whole.len()]
        .into_iter()
        .enumerate()
    {
        let staged = append(&stores[n % 2], at, &whole[..end]).await;
        at.offset = end as u64;
        at.epoch += 1;
        let size = match end == whole.len() {
            true => staged.publish().await,
            false => staged.close().await,
        };
        assert_eq!(size.unwrap(), end as u64);
    }
    for store in &stores {
        assert_eq!(read(store, &key(), whole.len()).await.unwrap(), whole);
    }
    assert_eq!(server.uploads(), 0);
    assert_all_goes(&server, &stores[0]).await;
}
