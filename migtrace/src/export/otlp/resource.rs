//! Who says something: migtrace on a host.

use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_semantic_conventions::attribute as names;

use super::attributes::Attributes;
use crate::record::Observer;

/// The `service.name` of what migtrace sends, unless another was chosen.
pub const SERVICE_NAME: &str = "migtrace";

/// Attributes of a resource that are of one host and not of a whole installation.
const OF_ONE_HOST: [&str; 7] =
    ["host.", "os.", "process.", "container.", "k8s.node.", "k8s.pod.", "service.instance."];

/// What is sent beside what records say.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// `service.name`, if it is not [`SERVICE_NAME`].
    pub service_name: Option<String>,
    /// More attributes of the resource. Those of one host (`host.`, `os.`, `k8s.node.`, ...) are given to this host only.
    pub attributes: Vec<(String, String)>,
    /// The host that sends.
    pub this_host: Option<ThisHost>,
    /// What the migration was a part of: the trace links to it.
    pub caller: Option<super::TraceContext>,
}

/// The host that sends.
#[derive(Clone, Debug)]
pub struct ThisHost {
    /// Its name, as records have it.
    pub name: String,
    /// Its `host.id`; none where it has none.
    pub id: Option<String>,
    /// Its kernel's release.
    pub kernel: String,
    /// What tells this process apart from all others that have ever sent: `service.instance.id` of metrics.
    pub instance: String,
}

impl Origin {
    /// The host that has observed a migration.
    pub(super) fn of_observer(&self, observer: &Observer) -> Resource {
        let own = self.this_host.as_ref().filter(|this| this.name == observer.host);
        let id = own.and_then(|own| own.id.as_deref());
        self.resource(&observer.host, id, &observer.kernel, &observer.migtrace, own.is_some())
    }

    /// This process, for what is not of one migration.
    pub(super) fn of_process(&self) -> Resource {
        let version = env!("CARGO_PKG_VERSION");
        let Some(this) = &self.this_host else { return self.resource("", None, "", version, true) };
        let mut resource = self.resource(&this.name, this.id.as_deref(), &this.kernel, version, true);
        if !resource.attributes.iter().any(|known| known.key == names::SERVICE_INSTANCE_ID) {
            let mut more = Attributes::default();
            more.text(names::SERVICE_INSTANCE_ID, this.instance.as_str());
            resource.attributes.extend(more.into_vec());
        }
        resource
    }

    fn resource(
        &self,
        host: &str,
        id: Option<&str>,
        kernel: &str,
        version: &str,
        is_this_host: bool,
    ) -> Resource {
        let known = |text| Some(text).filter(|text: &&str| !text.is_empty());
        let mut attributes = Attributes::default();
        let service = self.service_name.as_deref();
        let given = |name: &str| self.attributes.iter().find(|(key, _)| key == name);
        let service = service.or_else(|| Some(given(names::SERVICE_NAME)?.1.as_str()));
        attributes
            .text(names::SERVICE_NAME, service.unwrap_or(SERVICE_NAME))
            .text(names::SERVICE_VERSION, version)
            .text(names::OS_TYPE, "linux")
            .text(names::OS_VERSION, known(kernel));
        let own = [(names::HOST_NAME, known(host)), (names::HOST_ID, id)];
        for (name, value) in own.into_iter().filter(|(name, _)| !is_this_host || given(name).is_none()) {
            attributes.text(name, value);
        }
        let own = [names::SERVICE_NAME, names::SERVICE_VERSION, names::OS_TYPE, names::OS_VERSION];
        for (name, value) in &self.attributes {
            let is_of_another = !is_this_host && OF_ONE_HOST.iter().any(|prefix| name.starts_with(prefix));
            if !is_of_another && !own.contains(&name.as_str()) {
                attributes.text(name, value.as_str());
            }
        }
        Resource { attributes: attributes.into_vec(), ..Resource::default() }
    }
}
