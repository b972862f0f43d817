//! The deployment under check, as cases see it: devices to play, the push API, and a list of what has to be
//! removed again. Names begin with a random prefix, so that nothing of anyone else is touched.

use super::said;
use super::{Check, said::Found};
use crate::control::{ClientSecret, Control, token};
use crate::push_api;
use crate::roots;
use crate::wire::{Credential, Wire};
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{
    Class, CreateGroupRequest, DeleteGroupRequest, DescribeGroupRequest, InboxInfo, InboxRequest,
    Message, Outcome, PresenceRequest, PresenceState, StoredResult, UnicastRequest,
    UnicastResponse,
};
use hawser_sdk::{
    AccessPoint, Builder, Business, Client, DeviceKey, Dialer, Proof, Protocol, Push, Pushes, State,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// One step of a case: a login, a push to arrive, a change to be known.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at what is asked for again.
const LOOK: Duration = Duration::from_millis(50);

/// Where the deployment is, and what opens it.
pub(super) struct Named {
    pub(super) control: String,
    pub(super) push: String,
    pub(super) key: String,
    pub(super) client_secret: Option<String>,
    pub(super) trust: Option<PathBuf>,
}

/// What cases work with.
pub(super) struct Place {
    pub(super) app: String,
    pub(super) business: String,
    /// Method of the business that answers with the body.
    pub(super) method: String,
    /// Devices of the combined case.
    pub(super) devices: usize,
    control: Control,
    trust: Option<PathBuf>,
    push: PushClient<Channel>,
    key: MetadataValue<Ascii>,
    client_secret: Option<ClientSecret>,
    proof: Proof,
    dialer: Dialer,
    prefix: String,
    protocols: OnceCell<Vec<Protocol>>,
    folder: tempfile::TempDir,
    made: Mutex<Made>,
}

/// What has to be removed again.
#[derive(Debug, Default)]
struct Made {
    groups: BTreeSet<String>,
    inboxes: BTreeSet<String>,
}

impl Place {
    pub(super) fn new(named: Named, wanted: &Check) -> anyhow::Result<Self> {
        let trust = named.trust.as_deref();
        let dialer = match &named.trust {
            Some(path) => Dialer::with_pem(&std::fs::read(path)?)?,
            None => Dialer::new(),
        };
        let proof = match &named.client_secret {
            // One key for all: control binds the first that a device shows.
            Some(secret) => Proof::hmac(secret).device_key(DeviceKey::generate()),
            None => Proof::open(),
        };
        Ok(Self {
            app: wanted.app.clone(),
            business: wanted.business.clone(),
            method: wanted.method.clone(),
            devices: wanted.devices.max(1),
            control: Control::new(&named.control, trust)?,
            push: PushClient::new(push_api::endpoint(&named.push, trust)?.connect_lazy()),
            key: push_api::bearer(&named.key)?,
            client_secret: named.client_secret.as_deref().map(ClientSecret::new),
            trust: named.trust,
            proof,
            dialer,
            prefix: format!("check-{:08x}", rand::random::<u32>()),
            protocols: OnceCell::new(),
            folder: tempfile::tempdir()?,
            made: Mutex::default(),
        })
    }

    /// A name that nobody else has.
    pub(super) fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.prefix)
    }

    /// A folder for what devices keep.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Control, and devices.

    /// Control's answer to this device.
    pub(super) async fn access(&self, device: &str) -> anyhow::Result<Value> {
        self.control.access(&self.app, device, self.client_secret.as_ref()).await
    }

    /// The protocols of the access points that control names, each once, in its order.
    pub(super) async fn protocols(&self) -> anyhow::Result<&[Protocol]> {
        let ask = || async {
            let mut protocols = Vec::new();
            for point in points(&self.access(&self.name("asks")).await?)? {
                if !protocols.contains(&point.protocol) {
                    protocols.push(point.protocol);
                }
            }
            anyhow::Ok(protocols)
        };
        let protocols = self.protocols.get_or_try_init(ask).await?;
        Ok(protocols)
    }

    /// A link on which frames can be seen one by one, not logged in, and who may log in there. `None`: control
    /// names no access point over TCP or TLS.
    pub(super) async fn bare(&self, device: &str) -> anyhow::Result<Option<(Wire, Credential)>> {
        let answer = self.access(device).await?;
        let points = points(&answer)?;
        let over = |protocol| points.iter().find(|point| point.protocol == protocol);
        let Some(point) = over(Protocol::Tcp).or(over(Protocol::Tls)) else { return Ok(None) };
        let tls = match point.protocol {
            Protocol::Tls => {
                let trusted = roots::of_devices(self.trust.as_deref())?;
                let config = roots::client(trusted, &[b"hawser/1"])?;
                Some((point.tls_name().to_owned(), config))
            }
            _ => None,
        };
        let wire = Wire::dial_host((&point.host, point.port), tls).await?;
        let token = token(&answer)?.to_owned();
        let credential = Credential { app: self.app.clone(), device: device.to_owned(), token };
        Ok(Some((wire, credential)))
    }

    /// A device of this name, to be described further.
    pub(super) fn builder(&self, device: &str) -> Builder {
        Client::builder(self.control.address(), &self.app, device)
            .proof(self.proof.clone())
            .dialer(self.dialer.clone())
            .business(&self.business)
    }

    /// A device that shows this token, at the access points that control named.
    pub(super) fn showing(
        &self,
        device: &str,
        token: &str,
        answer: &Value,
    ) -> anyhow::Result<Client> {
        let pinned = Builder::pinned(&self.app, device, token, points(answer)?);
        Ok(pinned.dialer(self.dialer.clone()).business(&self.business).build()?)
    }

    /// Such a device, logged in over this protocol, or whichever control prefers.
    pub(super) async fn online(
        &self,
        device: &str,
        protocol: Option<Protocol>,
    ) -> anyhow::Result<Device> {
        let mut builder = self.builder(device);
        if let Some(protocol) = protocol {
            builder = builder.protocol(protocol);
        }
        self.log_in(device, builder).await
    }

    /// What was described, logged in.
    pub(super) async fn log_in(&self, device: &str, builder: Builder) -> anyhow::Result<Device> {
        let client = builder.build()?;
        let business = client.business(&self.business);
        let pushes = business.pushes();
        let device = Device { id: device.to_owned(), client, business, pushes };
        match tokio::time::timeout(PATIENCE, device.client.connect()).await {
            Ok(connected) => connected?,
            Err(_) => {
                bail!("{} is not online after {PATIENCE:?}: {}", device.id, device.client.state())
            }
        }
        Ok(device)
    }

    // The push API.

    /// The push API; see [`Place::call`].
    pub(super) fn push(&self) -> PushClient<Channel> {
        self.push.clone()
    }

    /// A call with the business's key.
    pub(super) fn call<T>(&self, message: T) -> Request<T> {
        push_api::request(message, &self.key, PATIENCE)
    }

    /// Pushes to one device. A stored one is remembered, so that its inbox is emptied in the end.
    pub(super) async fn unicast(
        &self,
        device: &str,
        class: Class,
        push_id: &str,
        body: &str,
    ) -> Result<UnicastResponse, Status> {
        if class == Class::Stored {
            self.made().inboxes.insert(device.to_owned());
        }
        let message =
            Message { body: Bytes::copy_from_slice(body.as_bytes()), ..Message::default() };
        let request = UnicastRequest {
            device: device.to_owned(),
            message: Some(message),
            class: class.into(),
            push_id: Bytes::copy_from_slice(push_id.as_bytes()),
            store: None,
        };
        Ok(self.push().unicast(self.call(request)).await?.into_inner())
    }

    /// Stores a push, and says where.
    pub(super) async fn store(
        &self,
        device: &str,
        push_id: &str,
        body: &str,
    ) -> anyhow::Result<StoredResult> {
        let answer = self.unicast(device, Class::Stored, push_id, body).await?;
        let outcome = answer.outcome();
        let is_stored = matches!(outcome, Outcome::Stored | Outcome::Acked);
        ensure!(is_stored, "a stored push is answered {}", outcome.as_str_name());
        answer.stored.context("a stored push without a position")
    }

    /// What waits for a device.
    pub(super) async fn inbox(&self, device: &str) -> anyhow::Result<InboxInfo> {
        let request = self.call(InboxRequest { device: device.to_owned() });
        Ok(self.push().describe_inbox(request).await?.into_inner())
    }

    /// Waits until nothing waits for a device.
    pub(super) async fn until_empty(&self, device: &str) -> anyhow::Result<()> {
        until("the inbox is not empty", || async {
            anyhow::Ok(self.inbox(device).await?.entries == 0)
        })
        .await
    }

    /// Whether a device is online, and under which epoch.
    pub(super) async fn presence(&self, device: &str) -> anyhow::Result<(PresenceState, u64)> {
        let request = self.call(PresenceRequest { devices: vec![device.to_owned()] });
        let answer = self.push().get_presence(request).await?.into_inner();
        let told = answer.devices.first().context("no word on the device")?;
        ensure!(told.device == device, "asked for {device}, told of {}", told.device);
        Ok((told.state(), told.epoch))
    }

    /// Makes a group, which is removed in the end.
    pub(super) async fn create_group(&self, what: &str) -> anyhow::Result<String> {
        let group = self.name(what);
        self.made().groups.insert(group.clone());
        let request = CreateGroupRequest { group: group.clone(), history: None };
        self.push().create_group(self.call(request)).await?;
        Ok(group)
    }

    /// How many are in a group.
    pub(super) async fn members(&self, group: &str) -> anyhow::Result<u64> {
        let request = self.call(DescribeGroupRequest { group: group.to_owned() });
        Ok(self.push().describe_group(request).await?.into_inner().members)
    }

    /// Removes what was made. What could not be is told.
    pub(super) async fn clean_up(&self) -> Vec<String> {
        let made = std::mem::take(&mut *self.made());
        let mut left = Vec::new();
        for group in made.groups {
            let request = self.call(DeleteGroupRequest { group: group.clone() });
            if let Err(status) = self.push().delete_group(request).await
                && said::code(&status) != "group_not_found"
            {
                left.push(format!("the group {group}: {}", status.message()));
            }
        }
        for device in made.inboxes {
            let request = self.call(InboxRequest { device: device.clone() });
            if let Err(status) = self.push().purge_inbox(request).await {
                left.push(format!("the inbox of {device}: {}", status.message()));
            }
        }
        left
    }
}

/// A device that is logged in.
pub(super) struct Device {
    pub(super) id: String,
    pub(super) client: Client,
    pub(super) business: Business,
    pub(super) pushes: Pushes,
}

impl Device {
    /// The next push. Asking for it says that the one before is handled.
    pub(super) async fn next(&mut self) -> anyhow::Result<Push> {
        let next = tokio::time::timeout(PATIENCE, self.pushes.next_push()).await;
        let next = next.with_context(|| format!("{} had no push in {PATIENCE:?}", self.id))?;
        next.with_context(|| format!("{} closed: {}", self.id, self.client.state()))
    }

    /// The next push is this one, and of this group or of none.
    pub(super) async fn hears(&mut self, body: &str, group: Option<&str>) -> anyhow::Result<Push> {
        let push = self.next().await?;
        ensure!(
            push.body == body && push.group.as_deref() == group,
            "{} had {:?} of {:?} in place of {body:?} of {group:?}",
            self.id,
            String::from_utf8_lossy(&push.body),
            push.group
        );
        Ok(push)
    }

    /// Waits for a state, and tells the one that it was.
    pub(super) async fn until(&self, is: impl Fn(&State) -> bool) -> anyhow::Result<State> {
        let mut states = self.client.states();
        let reached = tokio::time::timeout(PATIENCE, states.wait_for(is)).await;
        match reached {
            Ok(state) => Ok(state?.clone()),
            Err(_) => bail!("{} is still {} after {PATIENCE:?}", self.id, self.client.state()),
        }
    }
}

/// Looks again and again until it is so.
pub(super) async fn until<F>(not_so: &str, is_so: impl Fn() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<bool>>,
{
    let begun = Instant::now();
    while !is_so().await? {
        ensure!(begun.elapsed() < PATIENCE, "{not_so} after {PATIENCE:?}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The access points of control's answer.
fn points(answer: &Value) -> anyhow::Result<Vec<AccessPoint>> {
    let all = answer["access_points"].as_array().context("an answer without access points")?;
    let point = |it: &Value| -> anyhow::Result<AccessPoint> {
        let text = |name: &str| it[name].as_str().with_context(|| format!("no {name}"));
        let port = it["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let point = AccessPoint::new(
            text("protocol")?.parse()?,
            text("host")?,
            port.context("an access point without a port")?,
        );
        let server_name = it["server_name"].as_str().map(str::to_owned);
        Ok(AccessPoint { server_name, node: it["node"].as_str().map(str::to_owned), ..point })
    };
    all.iter().map(point).collect()
}

/// It cannot be tried without an access point of this protocol.
pub(super) fn not_named(what: &str) -> Found {
    Found::Unknown(format!("control names no access point over {what}"))
}
