//! Our own words: values that say what a cluster wants of one node's service proxy.
//!
//! Nothing here knows the API server's JSON, the kernel, a clock or a thread.
//! The API's objects become these in `api`; everything downstream reads only these.
//! Tests: beside each type.

mod endpoint;
mod event;
mod family;
mod masked;
mod mode;
mod name;
mod node;
mod notice;
mod service;
mod version;

pub use endpoint::{Conditions, Endpoint, EndpointSlice, Hints, SlicePort};
pub use event::{Event, Kind};
pub use family::{Family, Protocol};
pub use masked::{masked, without_user};
pub use mode::{Mode, Steering};
pub use name::{Interner, NamespacedName, ServicePortName};
pub use node::{LocalDetector, Node, NodePortAddresses, Pod};
pub use notice::{Notice, Reason};
pub use service::{Service, ServicePort, TrafficPolicy};
pub use version::{GIT_VERSION, KUBERNETES_MINOR};
