//! What hyperd offers beside CRI.

use std::{path::PathBuf, pin::Pin};

use futures::{Stream, StreamExt};
use hypernetes_hyperd_api::{
    DialChunk, ForgetTenantRequest, ForgetTenantResponse, HibernateSandboxRequest, HibernateSandboxResponse,
    ImportImageProgress, ImportImageRequest, InfoRequest, InfoResponse, ListTemplatesRequest, ListTemplatesResponse,
    ListTenantsRequest, ListTenantsResponse, ListVmsRequest, ListVmsResponse, Pull, ResumeSandboxRequest,
    ResumeSandboxResponse, Template, VirtualMachine, Vm, hyperd_server::Hyperd,
};
use hypernetes_hypervisor::Accelerator;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Service, detached};
use crate::{dial::Connection, error::Error, records::SandboxState, sandbox::Sandbox};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Hyperd for Service {
    type ImportImageStream = Answers<ImportImageProgress>;
    type DialStream = Answers<DialChunk>;

    async fn import_image(
        &self,
        request: Request<ImportImageRequest>,
    ) -> Result<Response<Self::ImportImageStream>, Status> {
        let ImportImageRequest { path, name } = request.into_inner();
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(Error::InvalidArgument("the archive's path must be absolute".into()).into());
        }
        let images = self.0.config.images.clone();
        let (to_client, answers) = mpsc::channel(16);
        tokio::spawn(async move {
            let (progress, mut steps) = mpsc::channel::<hypernetes_image::Progress>(16);
            let forward = async {
                while let Some(step) = steps.recv().await {
                    let message = ImportImageProgress {
                        step: step.step,
                        done_bytes: step.done_bytes,
                        total_bytes: step.total_bytes,
                        image_id: String::new(),
                    };
                    // A client that went away does not stop the import.
                    let _ = to_client.send(Ok(message)).await;
                }
            };
            let name = (!name.is_empty()).then_some(name);
            let (outcome, ()) = tokio::join!(images.import(&path, name.as_deref(), progress), forward);
            let last = match outcome {
                Ok(image) => Ok(ImportImageProgress {
                    step: "done".into(),
                    done_bytes: image.size_bytes,
                    total_bytes: image.size_bytes,
                    image_id: image.id.to_string(),
                }),
                Err(error) => Err(Error::from(error).into()),
            };
            let _ = to_client.send(last).await;
        });
        Ok(Response::new(ReceiverStream::new(answers).boxed()))
    }

    async fn dial(&self, request: Request<Streaming<DialChunk>>) -> Result<Response<Self::DialStream>, Status> {
        let mut from_client = request.into_inner();
        let first = from_client.message().await?.ok_or_else(|| Status::invalid_argument("no target is named"))?;
        let agent = self.0.sandbox(&first.pod_sandbox_id)?.live()?.agent.clone();
        let connection = Connection::open(&agent, &first.host, first.port).await.map_err(Status::from)?;
        let (writer, reader) = connection.split();
        tokio::spawn(async move {
            if !writer.write(&first.data, first.close_write).await {
                return;
            }
            while let Ok(Some(chunk)) = from_client.message().await {
                if !writer.write(&chunk.data, chunk.close_write).await {
                    return;
                }
            }
        });
        let answers = futures::stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.read().await {
                Ok(Some((data, close_write))) => {
                    Some((Ok(DialChunk { data, close_write, ..Default::default() }), Some(reader)))
                }
                Ok(None) => None,
                Err(error) => Some((Err(Error::from(error).into()), None)),
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn hibernate_sandbox(
        &self,
        request: Request<HibernateSandboxRequest>,
    ) -> Result<Response<HibernateSandboxResponse>, Status> {
        let (runtime, id) = (self.0.clone(), request.into_inner().pod_sandbox_id);
        detached(async move { runtime.hibernate_sandbox(&id).await }).await?;
        Ok(Response::new(HibernateSandboxResponse {}))
    }

    async fn resume_sandbox(
        &self,
        request: Request<ResumeSandboxRequest>,
    ) -> Result<Response<ResumeSandboxResponse>, Status> {
        let (runtime, id) = (self.0.clone(), request.into_inner().pod_sandbox_id);
        detached(async move { runtime.resume_sandbox(&id).await }).await?;
        Ok(Response::new(ResumeSandboxResponse {}))
    }

    async fn info(&self, _request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let info = self.0.config.hypervisor.describe();
        let machines = self.0.sandboxes().into_iter().filter_map(|sandbox| {
            let record = sandbox.record();
            let vm = record.vm.filter(|_| record.state != SandboxState::Hibernated)?;
            Some(VirtualMachine {
                sandbox_id: record.id,
                pid: vm.pid,
                cpus: vm.spec.cpus,
                memory_bytes: u64::from(vm.spec.memory_mib) << 20,
                boot_id: record.boot_id,
                resident_bytes: crate::host_usage::memory_bytes(vm.pid).unwrap_or_default(),
            })
        });
        Ok(Response::new(InfoResponse {
            accelerator: match info.accelerator {
                Accelerator::Kvm => "kvm".into(),
                Accelerator::Tcg => "tcg".into(),
            },
            accelerator_reason: info.accelerator_reason,
            kernel: info.kernel.display().to_string(),
            vmm: info.vmm,
            machines: machines.collect(),
            pulls: self.0.config.images.pulls().into_iter().map(to_pull).collect(),
        }))
    }

    async fn list_vms(&self, _request: Request<ListVmsRequest>) -> Result<Response<ListVmsResponse>, Status> {
        let mut vms: Vec<Vm> = self.0.sandboxes().iter().filter_map(|sandbox| vm(sandbox)).collect();
        vms.sort_by_key(|vm| std::cmp::Reverse(vm.created_at));
        Ok(Response::new(ListVmsResponse { vms }))
    }

    async fn list_templates(
        &self,
        _request: Request<ListTemplatesRequest>,
    ) -> Result<Response<ListTemplatesResponse>, Status> {
        let templates = self.0.config.hypervisor.templates().into_iter().map(|template| Template {
            tenant: template.tenant,
            cpus: template.cpus,
            memory_bytes: u64::from(template.memory_mib) << 20,
            disk_slots: template.disk_slots,
            network: template.has_nic,
            bytes: template.bytes,
            copies: template.copies,
        });
        Ok(Response::new(ListTemplatesResponse { templates: templates.collect() }))
    }

    async fn list_tenants(
        &self,
        _request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let tenants = self.0.config.images.tenants().into_iter().collect();
        Ok(Response::new(ListTenantsResponse { tenants }))
    }

    async fn forget_tenant(
        &self,
        request: Request<ForgetTenantRequest>,
    ) -> Result<Response<ForgetTenantResponse>, Status> {
        let tenant = request.into_inner().tenant;
        let annotated =
            |sandbox: &Sandbox| sandbox.record().config.annotations.get(crate::TENANT_ANNOTATION) == Some(&tenant);
        if let Some(sandbox) = self.0.sandboxes().iter().find(|sandbox| annotated(sandbox)) {
            let message = format!("the tenant {tenant:?} still has the sandbox {}", sandbox.id);
            return Err(Error::FailedPrecondition(message).into());
        }
        let images = self.0.config.images.clone();
        detached(async move { Ok(images.forget_tenant(&tenant).await?) }).await?;
        Ok(Response::new(ForgetTenantResponse {}))
    }
}

/// None: the sandbox has no VM (any more).
fn vm(sandbox: &Sandbox) -> Option<Vm> {
    let ips = sandbox.status().network.into_iter().flat_map(|network| {
        std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|additional| additional.ip))
    });
    let ips = ips.filter(|ip| !ip.is_empty()).collect();
    let record = sandbox.record();
    let mut machine = record.vm?;
    if record.state == SandboxState::Hibernated {
        // The process that it was.
        machine.pid = 0;
    }
    let metadata = record.config.metadata.unwrap_or_default();
    let nic = machine.spec.nic.unwrap_or_else(|| hypernetes_hypervisor::Nic {
        tap: String::new(),
        netns: None,
        mac: String::new(),
    });
    Some(Vm {
        sandbox_id: record.id,
        pod_namespace: metadata.namespace,
        pod_name: metadata.name,
        tenant: machine.spec.tenant,
        state: match record.state {
            SandboxState::Starting => "starting",
            SandboxState::Ready => "ready",
            SandboxState::Hibernated => "hibernated",
            SandboxState::NotReady { .. } | SandboxState::Stopped { .. } => "not-ready",
        }
        .into(),
        created_at: record.created_at,
        pid: machine.pid,
        cpus: machine.spec.cpus,
        memory_bytes: u64::from(machine.spec.memory_mib) << 20,
        resident_bytes: crate::host_usage::memory_bytes(machine.pid).unwrap_or_default(),
        disk_slots: machine.spec.disk_slots,
        disks: u32::try_from(machine.disks.iter().flatten().count()).unwrap_or(u32::MAX),
        ips,
        tap: nic.tap,
        netns: nic.netns.map(|path| path.display().to_string()).unwrap_or_default(),
        kernel_release: record.kernel_release,
        agent_version: record.agent_version,
    })
}

fn to_pull(status: hypernetes_image::PullStatus) -> Pull {
    let count = |layers: usize| u32::try_from(layers).unwrap_or(u32::MAX);
    Pull {
        reference: status.reference,
        layers_done: count(status.layers_done),
        layers_total: count(status.layers_total),
        received_bytes: status.received_bytes,
        total_bytes: status.total_bytes,
    }
}
