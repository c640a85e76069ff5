//! The launchers in `jobs/` on the engines that they are for: real Slurm and Ray clusters on loopback, and the tools that read the files
//! of Kubernetes, Docker, systemd and Airflow.
//!
//! The files are used as they are. Where a worker has to die or to wait at a certain place, the `nightcap` on its PATH is a script
//! that names that place to the real one ([`Wrapper`]).

mod engine;
mod kubernetes;
mod ray;
mod services;
mod slurm;
mod workload;
