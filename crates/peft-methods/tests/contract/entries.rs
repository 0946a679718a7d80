//! Entries of METHODS describe themselves: names, options, defaults.

use serde_json::Value;
use statetune_peft_methods::{METHODS, methods};

#[test]
fn entries_describe_their_options() {
    for (i, info) in METHODS.iter().enumerate() {
        assert!(METHODS[..i].iter().all(|other| other.tag != info.tag), "two methods are called {}", info.tag);
        assert!(!info.summary.is_empty() && !info.reference.is_empty() && !(info.examples)().is_empty());
        let method = (info.parse)(Value::Object(Default::default())).unwrap();
        assert_eq!(method.tag(), info.tag);
        let Value::Object(config) = method.config() else { panic!("{}: options are a table", info.tag) };
        let mut options: Vec<&str> = info.options.iter().map(|option| option.name).collect();
        let mut keys: Vec<&str> = config.keys().map(String::as_str).collect();
        options.sort_unstable();
        keys.sort_unstable();
        assert_eq!(options, keys, "{}", info.tag);
        // What a configuration says is what is written.
        for example in (info.examples)() {
            let written = (info.parse)(example.clone()).unwrap().config();
            for (key, value) in example.as_object().unwrap() {
                let same = written[key] == *value || written[key].as_f64() == value.as_f64() && value.is_number();
                assert!(
                    same || value.as_f64().is_some_and(|v| (v - written[key].as_f64().unwrap()).abs() < 1e-6)
                        || written[key].is_object(),
                    "{}: {key}",
                    info.tag
                );
            }
        }
    }
    let error = methods::find("state-ofset-h").err().unwrap().to_string();
    assert!(error.contains("did you mean `state-offset-h`"), "{error}");
}
