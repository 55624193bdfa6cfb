//! Answers with many instances: everything, the latest changes, one application, one VIP (spec/registry.md 3.7, 3.14
//! and 3.15). Each is encoded and compressed once per revision and shared; a renewal makes no revision, so the
//! renewal times in these answers are those of the last one.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use registry_api::Namespace;
use serde::Serialize;
use tokio::sync::{OnceCell, Semaphore};

use super::compat::Compat;
use super::format::Format;
use super::record::Record;
use super::show::Shown;
use super::{life, xml};
use crate::catalog::{Catalog, Leased};
use crate::gzip;
use crate::recent::Action;

/// How many answers of all namespaces are shared; at the bound all are forgotten and made again when asked for.
pub const ANSWERS_MAX: usize = 1_024;
/// About how long they may be together; the bound acts like the other one.
pub const ANSWERS_BYTES_MAX: usize = 256 << 20;
/// Longer answers are encoded beside the request threads.
const INLINE_INSTANCES_MAX: usize = 100;
/// How many long answers are encoded or compressed at once; where changes come fast, others wait their turn
/// rather than fill the memory with lists of every revision.
pub const ENCODERS_MAX: usize = 2;
/// How much longer an instance is here than natively.
const BYTES_PER_INSTANCE: usize = 1_500;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Question {
    All,
    Changes,
    App(String),
    Vip(String),
    SecureVip(String),
}

type Key = (Namespace, Question, Format);

/// The shared answers of all namespaces.
#[derive(Debug)]
pub struct Lists {
    shelf: Mutex<Shelf>,
    encoders: Arc<Semaphore>,
}

impl Default for Lists {
    fn default() -> Self {
        Self { shelf: Mutex::default(), encoders: Arc::new(Semaphore::new(ENCODERS_MAX)) }
    }
}

#[derive(Debug, Default)]
struct Shelf {
    answers: HashMap<Key, Arc<Answer>>,
    bytes: usize,
}

/// One answer, encoded for the first who asks.
#[derive(Debug)]
pub struct Answer {
    revision: u64,
    question: Question,
    format: Format,
    compat: Compat,
    encoders: Arc<Semaphore>,
    hash: String,
    instances: Vec<(Leased, Action)>,
    plain: OnceCell<Encoded>,
    gzipped: OnceCell<Bytes>,
}

#[derive(Debug, Clone)]
struct Encoded {
    body: Bytes,
    is_empty: bool,
}

impl Lists {
    /// The answer to a question about a namespace as it is now.
    pub fn answer(
        &self,
        namespace: &Namespace,
        catalog: &Catalog,
        question: Question,
        format: Format,
        compat: Compat,
    ) -> Arc<Answer> {
        let key = (namespace.clone(), question, format);
        let revision = catalog.recent().version();
        if let Some(answer) = self.shelf().answers.get(&key).filter(|answer| answer.revision == revision) {
            return Arc::clone(answer);
        }
        // Two who ask at once may both collect; the second's is kept.
        let encoders = Arc::clone(&self.encoders);
        let answer = Arc::new(Answer::collect(catalog, key.1.clone(), format, compat, encoders));
        // Whether there is such a VIP shows only later, and names that nobody has must not fill the shelf.
        if !answer.is_sifted() && !answer.instances.is_empty() {
            self.keep(key, &answer);
        }
        answer
    }

    /// Shares an answer that turned out to say something.
    pub fn keep_sifted(&self, namespace: &Namespace, answer: &Arc<Answer>) {
        if answer.is_sifted() {
            self.keep((namespace.clone(), answer.question.clone(), answer.format), answer);
        }
    }

    fn keep(&self, key: Key, answer: &Arc<Answer>) {
        let mut shelf = self.shelf();
        shelf.bytes += answer.about_bytes();
        if let Some(before) = shelf.answers.remove(&key) {
            shelf.bytes -= before.about_bytes();
        }
        if shelf.answers.len() >= ANSWERS_MAX || shelf.bytes > ANSWERS_BYTES_MAX {
            shelf.answers.clear();
            shelf.bytes = answer.about_bytes();
        }
        shelf.answers.insert(key, Arc::clone(answer));
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    fn collect(
        catalog: &Catalog,
        question: Question,
        format: Format,
        compat: Compat,
        encoders: Arc<Semaphore>,
    ) -> Self {
        let instances = match &question {
            Question::Changes => {
                catalog.recent().iter().map(|happened| (happened.leased.clone(), happened.action)).collect()
            }
            Question::App(app) => added(life::members(catalog, compat, app).into_iter()),
            Question::All | Question::Vip(_) | Question::SecureVip(_) => added(catalog.instances()),
        };
        Self {
            revision: catalog.recent().version(),
            question,
            format,
            compat,
            encoders,
            hash: life::reconcile_hash(catalog.statuses()),
            instances,
            plain: OnceCell::new(),
            gzipped: OnceCell::new(),
        }
    }

    /// The body; `None` when nothing of that name is there.
    pub async fn plain(self: &Arc<Self>) -> Option<Bytes> {
        let made = self.plain.get_or_init(|| self.made(Self::encode)).await;
        let named = !matches!(self.question, Question::All | Question::Changes);
        (!(named && made.is_empty)).then(|| made.body.clone())
    }

    /// The body, gzipped.
    pub async fn gzipped(self: &Arc<Self>) -> Option<Bytes> {
        let plain = self.plain().await?;
        let made = self.gzipped.get_or_init(|| self.made(move |_| Bytes::from(gzip::compress(&plain))));
        Some(made.await.clone())
    }

    /// The content type.
    pub fn label(&self) -> &'static str {
        self.format.label()
    }

    /// Whether what was collected still has to be looked through.
    fn is_sifted(&self) -> bool {
        matches!(self.question, Question::Vip(_) | Question::SecureVip(_))
    }

    fn about_bytes(&self) -> usize {
        self.instances.len() * BYTES_PER_INSTANCE
    }

    async fn made<T: Send + 'static>(
        self: &Arc<Self>,
        make: impl FnOnce(&Self) -> T + Clone + Send + 'static,
    ) -> T {
        if self.instances.len() <= INLINE_INSTANCES_MAX {
            return make(self);
        }
        let _permit = self.encoders.acquire().await.expect("the semaphore is never closed");
        let (answer, elsewhere) = (Arc::clone(self), make.clone());
        let made = tokio::task::spawn_blocking(move || elsewhere(&answer)).await;
        // Only a runtime that is shutting down refuses.
        made.unwrap_or_else(|_| make(self))
    }

    fn encode(&self) -> Encoded {
        let wanted = self.instances.iter().filter(|(leased, _)| self.wants(leased));
        let mut by_app = BTreeMap::<Cow<'_, str>, Vec<Shown<'_>>>::new();
        for (leased, action) in wanted {
            let shown = Shown::of(leased, self.compat, *action);
            by_app.entry(shown.app.clone()).or_default().push(shown);
        }
        let is_empty = by_app.is_empty();
        let applications = Applications {
            version: if self.question == Question::Changes { self.revision.max(1) } else { 1 }.to_string(),
            hash: self.hash(&by_app),
            application: by_app.into_iter().map(|(name, instance)| Application { name, instance }).collect(),
        };
        let text = match self.format {
            Format::Json if matches!(self.question, Question::App(_)) => {
                let application = applications.application.first();
                json(&BTreeMap::from([("application", application)]))
            }
            Format::Json => json(&BTreeMap::from([("applications", &applications)])),
            Format::Xml => {
                let mut out = String::new();
                match (&self.question, applications.application.first()) {
                    (Question::App(_), Some(application)) => application.write_xml(&mut out),
                    _ => applications.write_xml(&mut out),
                }
                out
            }
        };
        Encoded { body: text.into(), is_empty }
    }

    /// The hash of everything, or of what a VIP has.
    fn hash(&self, by_app: &BTreeMap<Cow<'_, str>, Vec<Shown<'_>>>) -> String {
        if !self.is_sifted() {
            return self.hash.clone();
        }
        life::reconcile_hash(by_app.values().flatten().map(|shown| (shown.status, 1)))
    }

    fn wants(&self, leased: &Leased) -> bool {
        let among = |vips: &str, wanted: &str| vips.split(',').any(|vip| vip.trim() == wanted);
        let sift = |wanted: &String, secure: bool| {
            let record = Record::of(leased);
            match &record.described {
                Some(described) if secure => among(&described.secure_vip, wanted),
                Some(described) => described.vip == *wanted || among(&described.vip, wanted),
                None => !secure && leased.instance.service_name.as_str() == wanted,
            }
        };
        match &self.question {
            Question::Vip(wanted) => sift(wanted, false),
            Question::SecureVip(wanted) => sift(wanted, true),
            Question::All | Question::Changes | Question::App(_) => true,
        }
    }
}

fn added(instances: impl Iterator<Item = Leased>) -> Vec<(Leased, Action)> {
    instances.map(|leased| (leased, Action::Added)).collect()
}

/// The text of what we write.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("our answers are plain data and always encode")
}

#[derive(Serialize)]
struct Applications<'a> {
    #[serde(rename = "versions__delta")]
    version: String,
    #[serde(rename = "apps__hashcode")]
    hash: String,
    application: Vec<Application<'a>>,
}

#[derive(Serialize)]
struct Application<'a> {
    name: Cow<'a, str>,
    instance: Vec<Shown<'a>>,
}

impl Applications<'_> {
    fn write_xml(&self, out: &mut String) {
        out.push_str("<applications>");
        xml::element(out, "versions__delta", &self.version);
        xml::element(out, "apps__hashcode", &self.hash);
        self.application.iter().for_each(|application| application.write_xml(out));
        out.push_str("</applications>");
    }
}

impl Application<'_> {
    fn write_xml(&self, out: &mut String) {
        out.push_str("<application>");
        xml::element(out, "name", &self.name);
        self.instance.iter().for_each(|instance| xml::instance(out, instance));
        out.push_str("</application>");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use registry_api::Registration;

    use super::*;
    use crate::catalog::Command;
    use crate::registration::{TtlLimits, admit};
    use crate::timestamp::Timestamp;

    fn register(catalog: &mut Catalog, service: &str) -> registry_api::InstanceId {
        let second = Duration::from_secs(1);
        let limits = TtlLimits::new(second, second, second).unwrap();
        let admitted = admit(Registration::http(service, &[], "h:1"), limits).unwrap();
        let id = admitted.instance().id.clone();
        catalog.apply(Command::Register(admitted), Timestamp::from_millis(1)).unwrap();
        id
    }

    fn ask(lists: &Lists, namespace: &str, catalog: &Catalog, question: Question) -> Arc<Answer> {
        let namespace = Namespace::new(namespace).unwrap();
        lists.answer(&namespace, catalog, question, Format::Json, Compat::Netflix)
    }

    fn kept(lists: &Lists) -> usize {
        lists.shelf().answers.len()
    }

    #[tokio::test]
    async fn an_answer_is_encoded_once_per_revision_and_a_renewal_is_none() {
        let (lists, mut catalog) = (Lists::default(), Catalog::new(None));
        let id = register(&mut catalog, "a");
        let first = ask(&lists, "n", &catalog, Question::All);
        catalog.renew(&id, Timestamp::from_millis(900)).unwrap();
        let second = ask(&lists, "n", &catalog, Question::All);
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.gzipped().await.unwrap().as_ptr(), second.gzipped().await.unwrap().as_ptr());
        register(&mut catalog, "b");
        let third = ask(&lists, "n", &catalog, Question::All);
        assert!(!Arc::ptr_eq(&first, &third));
        assert_eq!(kept(&lists), 1, "the older one is of no use to anybody");
    }

    #[tokio::test]
    async fn names_that_nobody_has_are_not_kept() {
        let (lists, mut catalog) = (Lists::default(), Catalog::new(None));
        register(&mut catalog, "a");
        for name in ["none", "a"] {
            let namespace = Namespace::new("n").unwrap();
            for question in [Question::App(name.to_uppercase()), Question::Vip(name.to_owned())] {
                let answer = ask(&lists, "n", &catalog, question);
                assert_eq!(answer.plain().await.is_some(), name == "a");
                if name == "a" {
                    lists.keep_sifted(&namespace, &answer);
                }
            }
        }
        assert_eq!(kept(&lists), 2);
    }

    #[test]
    fn namespaces_share_nothing_and_at_the_bound_all_is_forgotten() {
        let (lists, mut catalog) = (Lists::default(), Catalog::new(None));
        register(&mut catalog, "a");
        let first = ask(&lists, "0", &catalog, Question::All);
        for namespace in 1..ANSWERS_MAX {
            let other = ask(&lists, &namespace.to_string(), &catalog, Question::All);
            assert!(!Arc::ptr_eq(&first, &other));
        }
        assert_eq!(kept(&lists), ANSWERS_MAX);
        ask(&lists, "one more", &catalog, Question::All);
        let shelf = lists.shelf();
        assert_eq!((shelf.answers.len(), shelf.bytes), (1, BYTES_PER_INSTANCE));
    }
}
