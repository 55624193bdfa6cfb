//! Questions, deltas and the hash (spec/registry.md 3.14, 3.15).

use serde_json::{Value, json};

use crate::support::Running;
use crate::{ask, ids, register, status_of};

#[tokio::test]
async fn section_3_14_vips_match_each_element_of_a_list() {
    let running = Running::start(&[]).await;
    register(&running, "A", "i", json!({"vipAddress": "one,two", "secureVipAddress": "safe"})).await;
    register(&running, "B", "j", json!({"vipAddress": "two", "status": "DOWN"})).await;
    running.register("two", "h:1", "").await;
    for (path, expected) in [("vips/one", 1), ("vips/two", 3), ("vips/one,two", 1), ("svips/safe", 1)] {
        let seen = ask(&running, &format!("/eureka/{path}?regions=x")).await;
        assert_eq!(ids(&seen).len(), expected, "{path}: {seen}");
    }
    let two = ask(&running, "/eureka/vips/two").await;
    assert_eq!(two["applications"]["apps__hashcode"], "DOWN_1_UP_2_");
    for path in ["vips/o", "vips/ONE", "svips/two", "svips/one"] {
        assert_eq!(status_of(&running, "GET", &format!("/eureka/{path}")).await, 404, "{path}");
    }
    for path in ["instances/i", "apps/a/i", "apps/A/i/"] {
        assert_eq!(ask(&running, &format!("/eureka/{path}")).await["instance"]["instanceId"], "i", "{path}");
    }
    running.stop().await;
}

#[tokio::test]
async fn section_3_15_deltas_tell_the_latest_and_the_hash_is_of_everything() {
    let running = Running::start(&[]).await;
    let version =
        |delta: &Value| delta["applications"]["versions__delta"].as_str().unwrap().parse::<u64>().unwrap();
    let empty = ask(&running, "/eureka/apps/delta").await;
    assert_eq!((ids(&empty), version(&empty)), (vec![], 1));
    for id in ["i", "j", "k"] {
        register(&running, "A", id, json!({})).await;
    }
    running.register("native", "h:1", "").await;
    let first = ask(&running, "/eureka/apps/delta").await;
    assert_eq!(ids(&first).len(), 4);
    assert!(ids(&first).iter().all(|(_, action)| action == "ADDED"));
    assert_eq!(status_of(&running, "PUT", "/eureka/apps/A/j").await, 200);
    assert_eq!(ask(&running, "/eureka/apps/delta").await, first, "a renewal is no change");
    status_of(&running, "PUT", "/eureka/apps/A/i/status?value=DOWN").await;
    status_of(&running, "DELETE", "/eureka/apps/A/j").await;
    let second = ask(&running, "/eureka/apps/delta").await;
    assert!(version(&second) > version(&first));
    assert_eq!(second["applications"]["apps__hashcode"], "DOWN_1_UP_2_");
    let told = ids(&second);
    for (id, action) in [("i", "MODIFIED"), ("j", "DELETED"), ("k", "ADDED")] {
        assert!(told.contains(&(id.to_owned(), action.to_owned())), "{told:?}");
    }
    let all = ask(&running, "/eureka/apps").await;
    assert_eq!(ids(&all).len(), 3);
    assert_eq!(all["applications"]["versions__delta"], "1");
    assert_eq!(all["applications"]["apps__hashcode"], second["applications"]["apps__hashcode"]);
    // Registering again is told again, also without a difference.
    register(&running, "A", "k", json!({})).await;
    let third = ask(&running, "/eureka/apps/delta").await;
    assert!(version(&third) > version(&second));
    running.stop().await;
}

#[tokio::test]
async fn section_3_15_what_expires_is_told_as_deleted() {
    let running =
        Running::start(&["--min_ttl", "100ms", "--default_ttl", "200ms", "--max_ttl", "200ms"]).await;
    register(&running, "A", "i", json!({"leaseInfo": {"durationInSecs": 1}})).await;
    running.eventually("/eureka/apps/delta", |reply| reply.text().contains("<actionType>DELETED")).await;
    assert_eq!(ids(&ask(&running, "/eureka/apps").await), vec![]);
    running.stop().await;
}
