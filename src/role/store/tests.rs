use super::*;
use serde::Deserialize;
use std::time::Duration;

fn urls(text: &str) -> Vec<String> {
    let store: Store = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
    exposed(store)
}

fn exposed(store: Store) -> Vec<String> {
    let urls = match StoreConfig::from(store) {
        StoreConfig::RedisSingle { url } => vec![url],
        StoreConfig::RedisCluster { nodes } => nodes,
        other => panic!("{other:?} has no addresses with credentials"),
    };
    urls.iter().map(|url| url.expose().to_owned()).collect()
}

#[test]
fn a_text_names_a_store() {
    assert_eq!("embedded".parse(), Ok(Store::Embedded));
    for (text, wanted) in [
        ("redis://127.0.0.1:6379", &["redis://127.0.0.1:6379/0"] as &[_]),
        ("redis://[::1]:6379/", &["redis://[::1]:6379/0"]),
        ("redis://redis.internal:6379/3", &["redis://redis.internal:6379/3"]),
        ("redis://:pass%40word@h:1/3", &["redis://:pass%40word@h:1/3"]),
        ("redis://hawser:p:w@h:1", &["redis://hawser:p%3Aw@h:1/0"]),
        ("redis-cluster://a:7000,b:7001", &["redis://a:7000/0", "redis://b:7001/0"]),
        ("redis-cluster://u:p@a:7000", &["redis://u:p@a:7000/0"]),
    ] {
        assert_eq!(urls(text), wanted, "{text}");
    }
    let store: Store = "redis-sentinel://:pw@a:26379,b:26379/main/2".parse().expect("good");
    assert!(!format!("{store:?}").contains("pw"), "secrets do not show: {store:?}");
    let StoreConfig::RedisSentinel { sentinels, master, username, password, database } =
        StoreConfig::from(store)
    else {
        panic!("no sentinels")
    };
    assert_eq!(sentinels, ["a:26379", "b:26379"]);
    assert_eq!((master.as_str(), username, database), ("main", None, 2));
    assert!(password.expect("there is one").matches("pw"));
}

#[test]
fn texts_out_of_their_form_are_refused_without_repeating_them() {
    for (text, wanted) in [
        ("", "a store is embedded, redis://"),
        ("Embedded", "a store is"),
        ("redis", "a store is"),
        ("http://h:1/sesame", "a store is"),
        ("rediss://:sesame@h:1", "not supported yet"),
        ("redis://h", "host:port"),
        ("redis://:sesame@h", "host:port"),
        ("redis://h:0", "host:port"),
        ("redis://h:65536", "host:port"),
        ("redis://:1", "host:port"),
        ("redis://se same:1", "host:port"),
        ("redis://[::x]:1", "host:port"),
        ("redis://h:1/sesame", "not a number"),
        ("redis://h:1/1/2", "a store is"),
        ("redis://h:1?sesame=1", "behind ?"),
        ("redis://:%sesame@h:1", "percent-encoded"),
        ("redis://a:1,b:1", "one address"),
        ("redis-sentinel://a:1,b:1", "names the master"),
        ("redis-sentinel://a:1//1", "names the master"),
        ("redis-sentinel://a:1/m/1/2", "names the master"),
        ("redis-cluster://a:1/1", "no numbered databases"),
        ("redis-cluster://", "host:port"),
    ] {
        let said = text.parse::<Store>().expect_err(text);
        assert!(said.contains(wanted), "{text}: {said}");
        assert!(!said.contains("sesame"), "{said}");
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    store: StoreFile,
}

fn read(text: &str) -> Result<(Store, Option<Duration>), String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.toml");
    std::fs::write(&path, text).expect("written");
    let file: File = super::super::load(Some(&path), &[]).map_err(|failure| failure.to_string())?;
    file.store.read().map_err(|failure| failure.to_string())
}

#[test]
fn the_file_takes_a_text_or_a_table_and_they_mean_the_same() {
    for (table, text) in [
        ("kind = 'embedded'", "embedded"),
        ("kind = 'redis'\nurl = 'redis://h:1/2'", "redis://h:1/2"),
        (
            "kind = 'redis-sentinel'\nsentinels = ['a:1', 'redis://b:2']\nmaster = 'main'\ndatabase = 4",
            "redis-sentinel://a:1,b:2/main/4",
        ),
        ("kind = 'redis-cluster'\nnodes = ['a:1', 'redis://b:2/']", "redis-cluster://a:1,b:2"),
    ] {
        let wanted = Ok((text.parse().expect(text), None));
        assert_eq!(read(&format!("store = '{text}'")), wanted, "{text}");
        assert_eq!(read(&format!("[store]\n{table}")), wanted, "{text}");
        let (_, timeout) = read(&format!("[store]\n{table}\ncall_timeout = '2s'")).expect(text);
        assert_eq!(timeout, Some(Duration::from_secs(2)));
    }
}

#[test]
fn a_table_takes_its_password_from_elsewhere() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let secret = folder.path().join("password");
    std::fs::write(&secret, "open/sesame\n").expect("written");
    let password = format!("username = 'hawser'\npassword = 'file:{}'", secret.display());
    let table = format!("[store]\nkind = 'redis-cluster'\nnodes = ['a:1', 'b:2']\n{password}");
    let (store, _) = read(&table).expect("good");
    assert_eq!(
        exposed(store),
        ["redis://hawser:open%2Fsesame@a:1/0", "redis://hawser:open%2Fsesame@b:2/0"]
    );
}

#[test]
fn mistakes_in_the_file_are_named() {
    for (text, wanted) in [
        ("store = 7", "invalid type"),
        ("store = 'redis://:sesame@h:1'", "does not belong in this file"),
        ("[store]\nkind = 'redis'\nurl = 'redis://:sesame@h:1'", "does not belong in this file"),
        ("[store]\nkind = 'redis'\nurl = 'redis://h:1'\npassword = 'sesame'", "env:NAME"),
        ("[store]\nkind = 'redis'\nurl = 'embedded'", "url is not"),
        ("[store]\nkind = 'redis'\nurl = 'redis-cluster://h:1'", "url is not"),
        ("[store]\nkind = 'redis'", "missing field `url`"),
        ("[store]\nkind = 'redis'\nurl = 'redis://h:1'\ndb = 1", "unknown field `db`"),
        ("[store]\nurl = 'redis://h:1'", "missing field `kind`"),
        ("[store]\nkind = 'postgres'", "unknown variant `postgres`"),
        ("[store]\nkind = 'embedded'\nurl = 'redis://h:1'", "unknown field `url`"),
        ("[store]\nkind = 'redis-sentinel'\nsentinels = []\nmaster = 'm'", "sentinels is empty"),
        ("[store]\nkind = 'redis-sentinel'\nsentinels = ['a:1']\nmaster = 'm/1'", "master is not"),
        ("[store]\nkind = 'redis-cluster'\nnodes = ['a']", "host:port"),
        ("[store]\nkind = 'redis-cluster'\nnodes = ['a:1']\ncall_timeout = '1'", "span of time"),
    ] {
        let said = read(text).expect_err(text);
        assert!(said.contains(wanted), "{text}: {said}");
        assert!(!said.contains("sesame"), "{said}");
    }
}
