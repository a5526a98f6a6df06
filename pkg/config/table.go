package config

import (
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/work/webhook"
)

const maxMiB = 1 << 24

// sections returns all settings, grouped and ordered as in the documentation. It is
// not a variable because each process of a sandbox would initialise it at its start.
func sections() []section {
	return []section{
		{"The service", []Setting{
			{Key: "state", Default: "", check: absolutePath, Flag: "state",
				Help: "The state directory: secrets, volumes, versions and logs. An absolute path. Users other than root: $XDG_STATE_HOME/dreamcore, or ~/.local/state/dreamcore."},
			{Key: "listen", Default: DefaultListen, check: address, Flag: "listen",
				FlagHelp: "address to listen on, HOST:PORT (DREAMCORE_LISTEN; default 127.0.0.1:8080)",
				Help:     "The address of the service, HOST:PORT. Put a proxy with TLS in front of it before you open it to a network. Port 0 picks a free port."},
			{Key: "identity_file", Default: "", check: optional(absolutePath),
				Help: "The file with the identity that opens the sealed secrets: an age key, mode 0600, with an absolute path. Empty: the systemd credential dreamcore-identity if there is one, else secrets/identity in the state directory. The environment variable DREAMCORE_IDENTITY holds the identity itself."},
			{Key: "secrets_dir", Default: "", check: optional(absolutePath),
				Help: "A directory of secrets that something else keeps, such as a mounted Secret of Kubernetes, with an absolute path: a file NAME.KEY for each value, such as anthropic-api-key.ANTHROPIC_API_KEY. They come before sealed secrets of the same name, cannot be changed here, and are read again when they change."},
			{Key: "memory_limit_mib", Default: 0, check: between(128, maxMiB, "the limit of its cgroup or machine"),
				Help: "The memory in MiB that the service itself aims to stay below; sandboxes do not count. 0: half of the memory of its cgroup or of the machine. GOMEMLIMIT in the environment takes precedence."},
			{Key: "grace", Default: 30 * time.Second, check: atLeast(0),
				Help: "How long running jobs may take to end when the service stops."},
			{Key: "cors_origins", Default: []string{},
				Help: "Origins whose pages may follow a job in the browser, with a link of POST /jobs/{id}/link, such as [https://app.example.com]. Each one exactly, as browsers send it; there is no wildcard."},
			{Key: "language", Default: "en", Words: []string{"en", "ja"}, Flag: "language",
				FlagHelp: "language of messages for players: en, ja",
				Help:     "The language of messages for players if a client does not name one: en or ja."},
			{Key: "log_level", Default: "info", Words: []string{"debug", "info", "warn", "error"}, Flag: "log-level",
				FlagHelp: "debug, info, warn or error",
				Help:     "The least severe log level that is written: debug, info, warn or error."},
			{Key: "log_format", Default: LogText, Words: []string{LogText, LogJSON},
				Help: "The form of the log: text, or json with one object on a line and durations in seconds."},
			{Key: "trusted_proxies", Default: []string{},
				Help: "Networks of the proxies in front of the service, such as [10.0.0.0/8, 192.0.2.7]. The address of a client behind them is taken from X-Forwarded-For, for the log. Others can write what they like into that header."},
			{Key: "metrics_listen", Default: "", check: optional(address),
				Help: "A separate address for GET /metrics, HOST:PORT, without a secret: let only Prometheus reach it. Empty: /metrics is at the address of the service and needs the internal secret."},
		}},
		{"Sandboxes", []Setting{
			{Key: "runtime", Default: "gvisor", Words: []string{"gvisor", "runc"}, Flag: "runtime",
				FlagHelp: "engine of sandboxes: gvisor, or runc, which shares the kernel of this machine (default gvisor)",
				Help:     "The engine of sandboxes: gvisor, or runc, which is faster and shares the kernel of this machine with them."},
			{Key: "rootfs", Default: "", check: optional(absolutePath), Flag: "rootfs",
				FlagHelp: "root file system of sandboxes: a directory (default: this machine's programs)",
				Help:     "The root file system of sandboxes: a directory with an absolute path. Empty: the programs of this machine, read-only."},
			{Key: "image", Default: "", Flag: "image",
				FlagHelp: "root file system of sandboxes from an image: NAME[:TAG][@sha256:…], oci-layout:DIR, docker-archive:FILE.tar or a directory",
				Help:     "The root file system of sandboxes from an image, instead of rootfs: a name in a registry (debian:12, HOST/NAME@sha256:…), oci-layout:DIR, docker-archive:FILE.tar, or a directory; paths are absolute. A missing image is pulled. A tag stays resolved to the digest of its last pull; \"dreamcore image pull\" updates it. The agent needs glibc and bash in the image."},
			{Key: "sandbox_uid", Default: 10000, check: id,
				Help: "The user inside sandboxes, who also owns the projects on disk. Not root."},
			{Key: "sandbox_gid", Default: 10000, check: id,
				Help: "The group inside sandboxes, which also owns the projects on disk. Not root."},
			{Key: "memory_mib", Default: 2048, Live: true, check: between(256, maxMiB, ""),
				Help: "The memory of one sandbox in MiB, at least 256, which the agent needs."},
			{Key: "cpus", Default: 0.0, Live: true, check: fractions(0, 1024),
				Help: "The processors of one sandbox, such as 1.5. 0: all of them."},
			{Key: "processes", Default: 512, Live: true, check: between(16, 1<<16, ""),
				Help: "The processes and threads of one sandbox."},
			{Key: "allow_unlimited", Default: false,
				Help: "Serve without root, which cannot limit the memory, processors, processes and disk of sandboxes: one of them can take the whole machine."},
			{Key: "max_sandboxes", Default: 32, Live: true, check: between(1, 10000, ""),
				Help: "Sandboxes at once on this machine. Each user keeps one between jobs; the one that was unused for longest is ended to make room. There are no more than the machine has processes for: 48 for each, of seven eighths of the least of kernel.pid_max, kernel.threads-max and the limit of the service's cgroup. The limit of a pod cannot be seen in its containers."},
			{Key: "sandbox_idle", Default: 20 * time.Minute, Live: true, check: atLeast(time.Second),
				Help: "A sandbox that was unused for this long is ended."},
			{Key: "sandbox_max_age", Default: 5 * time.Hour, Live: true, check: atLeast(time.Second),
				Help: "A sandbox older than this is ended after its job."},
			{Key: "min_free_mib", Default: 512, Live: true, check: between(0, maxMiB, ""),
				Help: "Free memory in MiB below which unused sandboxes are ended: of the machine, or what the limit of the service's cgroup leaves, as in a pod. 0: never."},
			{Key: "spare_sandboxes", Default: 1, Live: true, check: between(0, 100, ""),
				Help: "Sandboxes started ahead for the checks test_sandbox_io, test_gvisor and test_stream, which then answer at once. Each is used once, takes about 15 MiB and does not count for max_sandboxes; none are kept while memory is short. 0: every check starts its own."},
			{Key: "standby_sandboxes", Default: 1, Live: true, check: between(0, 100, ""),
				Help: "Sandboxes started ahead for users who have none: when such a user comes, one becomes the user's, for good. In each an agent waits, about 90 MiB, which begins a conversation in any project, so the first game of a user whom nobody has served begins at once; a conversation that goes on starts its own. With warm_agents: 0 none waits, but the agent has run once in each. They do not count for max_sandboxes; none are kept while memory is short (min_free_mib), and none are started while half as many jobs run as there are processors. With gVisor and root only. 0: every user waits for the start of a sandbox."},
			{Key: "warm_agents", Default: -1, Live: true, check: between(-1, 10000, ""),
				Help: "Agents that are started ahead and wait in their users' unused sandboxes, each for the next job in one project, which then begins about a second earlier: after a job, by prewarm_sandbox with a project_id, and when a client looks at a project. One that came with a standby sandbox (standby_sandboxes) waits for any project that begins, and counts once it has a user. Each takes about 90 MiB. The one that has waited for longest ends to make room for another, and when memory is short (min_free_mib) they end before any sandbox does. -1: one for each 2 GiB of memory. 0: none."},
			{Key: "sandbox_env", Default: map[string]string{}, Live: true,
				Help: "Variables for the programs in sandboxes, such as {IMAGE_API: \"https://images.example.com/v1\"}: for the tools and skills of the agent and for \"dreamcore sandbox exec\". Everything in a sandbox can read them, so a value that contains a secret is refused; use inject for secrets. Names that the agent's own environment uses (PATH, HOME, ANTHROPIC_…) are refused. In the environment it is the same map as JSON."},
		}},
		{"Disk", []Setting{
			{Key: "disk_mib", Default: 1024, check: between(16, maxMiB, "no limit"),
				Help: "Disk space in MiB for the projects and agent homes of one user: the size of a file system of their own, in a file that grows with use. It can be raised later; for users whose file system exists it cannot be lowered. No job begins if the disk cannot hold the rest of its user's limit. It needs loop devices and mkfs.ext4. 0: no limit except the disk, and only for users who have no file system yet. Without root there is no limit."},
			{Key: "project_mib", Default: 512, check: between(1, maxMiB, "no limit except the user's"),
				Help: "Disk space of one project in MiB. At the limit programs in the sandbox see \"No space left on device\"; without disk_mib the job is stopped shortly after. 0: no limit except the user's."},
			{Key: "project_files", Default: 50_000, check: between(1, volumeFiles, "no limit except the user's"),
				Help: "Files of any kind in one project. A job that exceeds the limit is stopped. 0: no limit except the user's."},
			{Key: "min_free_disk_mib", Default: 512, check: between(0, maxMiB, ""),
				Help: "Space in MiB that stays free on the disk of the state directory: no job begins that could take it."},
		}},
		{"The agent and its jobs", []Setting{
			{Key: "tools", Default: []string{"Read", "Write", "Edit", "Glob", "Grep", "Bash"}, Live: true, Flag: "tools",
				FlagHelp: "tools of the agent, separated by commas (default Read,Write,Edit,Glob,Grep,Bash)",
				Help:     "The tools of the agent. The sandbox is the trust boundary; use fewer for agents that must not run commands, such as [Read, Write, Edit]."},
			{Key: "model", Default: "", Live: true, check: modelName, Flag: "model",
				FlagHelp: "model for the agent (default: the agent's own choice)",
				Help:     "The model of the agent. Empty: the agent's own choice."},
			{Key: "max_turns", Default: 0, Live: true, check: between(0, 1<<31-1, ""),
				Help: "Turns of the model in one run of the agent. 0: no limit except the time."},
			{Key: "timeout", Default: 300 * time.Second, Live: true, check: lasting(time.Second, 24*time.Hour),
				Help: "The time limit of one run of the agent, with its unit: 300s, 5m."},
			{Key: "commit_message", Default: "", Live: true,
				Help: "The name of a version that a job makes if the request has no commit_message: a template with {{.Prompt}} (the player's own words), {{.User}}, {{.Project}} and {{.Job}}. Empty: the player's own words. One line of at most 72 characters is kept."},
			{Key: "output_lines", Default: 1000, Live: true, check: between(1, 1<<31-1, ""),
				Help: "Lines of the agent's output that one run forwards. The run continues after them."},
			{Key: "max_generations", Default: 0, Live: true, check: between(1, 10000, "a number that suits this machine"),
				Help: "Jobs that run at once on this machine, one of each user. Users take turns. 0: two for each core, at most one for each GiB of memory (1.25 GiB where games are played, see acceptance), and at most max_sandboxes."},
			{Key: "max_waiting", Default: 64, Live: true, check: between(0, 100_000, ""),
				Help: "Jobs that wait on this machine. More are refused with status 429."},
			{Key: "max_waiting_per_user", Default: 3, Live: true, check: between(0, 1000, ""),
				Help: "Jobs of one user that wait behind the user's first. More are refused with status 429."},
			{Key: "on_disconnect", Default: OnDisconnectCancel, Live: true, Words: []string{OnDisconnectCancel, OnDisconnectContinue},
				Help: "What happens to a job when the last client that follows it closes its connection: cancel or continue. A queued job is cancelled at once, a running one after disconnect_grace unless a client returns with the job's id (GET /jobs/ID/events); at once if the user requests another game. \"detach\": true in a request means continue for that job."},
			{Key: "disconnect_grace", Default: 10 * time.Second, Live: true, check: lasting(0, time.Hour),
				Help: "How long a running job waits for a client to return before it is cancelled; see on_disconnect. After a restart of the service, clients have 20 seconds more."},
			{Key: "attempts", Default: 2, Live: true, check: between(1, 100, ""),
				Help: "How often a job may be begun. A stop or a crash of the service cuts the jobs that run; the next process continues the agent's conversation in a new sandbox. Time, turns and money count all attempts. A job that two crashes have cut fails. 1: a job that was cut fails."},
		}},
		{"Playing the games", []Setting{
			{Key: "acceptance", Default: AcceptanceWarn, Live: true, check: oneOf(AcceptanceOff, AcceptanceWarn, AcceptanceFail), Flag: "acceptance",
				FlagHelp: "play each game in a browser before its job is done: off, warn or fail (default warn)",
				Help:     "Whether each game is played before its job is done: a headless browser in the user's sandbox opens it on a phone's and a desktop's screen, and the agent mends what it finds. off: not at all. warn: a game that still does not play ends with a warning. fail: it ends the job with the error GAME_BROKEN. Without a browser in the root file system of sandboxes no game is played, and nothing else changes: install Debian's chromium-headless-shell (\"dreamcore setup --acceptance\"), or use an image that has it. The browser takes up to 256 MiB of the sandbox's own memory_mib, beside the agent; below 1024 MiB it starts only when the agent has ended."},
			{Key: "acceptance_repairs", Default: 2, Live: true, check: between(0, 5, ""),
				Help: "How often the agent may mend a game that does not play, within the limits of its job."},
			{Key: "acceptance_limit", Default: 20 * time.Second, Live: true, check: lasting(5*time.Second, 2*time.Minute),
				Help: "The time limit of one check of a game, with its unit. A check that takes longer decides nothing."},
			{Key: "acceptance_on_apply", Default: false, Live: true,
				Help: "Whether a game is played after apply_files has changed it, too."},
		}},
		{"The model", []Setting{
			{Key: "upstream", Default: DefaultUpstream, Live: true,
				Help: "The address of the model API, without /v1 at its end. ANTHROPIC_BASE_URL in the environment sets it too."},
			{Key: "upstreams", Default: []upstream.Entry{}, Live: true, Example: upstreamsExample,
				Help: "Model APIs to use instead of upstream: a list that is tried in order if one is down, overloaded or refuses its credential. kind is anthropic (the Messages API of the vendor or of a proxy), vertex or bedrock. Credentials are names of sealed secrets, NAME, or NAME/KEY for a secret with several values; see \"dreamcore secret create\". models maps the names that the agent requests to the upstream's names (\"*\" matches all others). In the environment it is the same list as JSON."},
			{Key: "model_script", Default: "", Live: true, Flag: "model-script",
				FlagHelp: "answer from a model script instead of the model API: a file, \"demo\" or \"demo-repair\"",
				Help:     "A script that answers instead of the model API: a file, \"demo\" for the embedded one, or \"demo-repair\" for one whose first game has a mistake that the check of games finds. Empty: the model API."},
			{Key: "server_tools", Default: false,
				Help: "Whether requests may make the model API reach other machines: by its own tools (web search and fetch, code execution), MCP servers, or documents by address. Everything the agent knows can be sent away like this, whatever allow_hosts says. The tool WebSearch needs it."},
			{Key: "model_idle", Default: 60 * time.Second, check: atLeast(time.Second),
				Help: "A streamed answer of the model that is silent for this long is given up."},
		}},
		{"Prompt endpoints", []Setting{
			{Key: "prompt_models", Default: promptModels(), Live: true,
				Help: "The models behind the aliases that prompt endpoint files use; an alias that is left out keeps its model. In the environment: haiku=MODEL,sonnet=MODEL."},
			{Key: "max_prompts", Default: 64, check: between(1, 10000, ""),
				Help: "Prompt endpoint calls that run at once. As many wait for up to 5 seconds; more are refused with status 429. Jobs do not count."},
		}},
		{"Spending", []Setting{
			{Key: "budget_job_usd", Default: 0.0, Live: true, check: dollars, Help: "US dollars that one job may spend on the model. 0: no limit. Every limit is exceeded by at most the cost of one request."},
			{Key: "budget_job_tokens", Default: 0, Live: true, check: notNegative, Help: "Tokens that one job may use, of all kinds together, cached ones included. 0: no limit."},
			{Key: "budget_user_day_usd", Default: 0.0, Live: true, check: dollars, Help: "US dollars of one user in a day (UTC). 0: no limit."},
			{Key: "budget_user_day_tokens", Default: 0, Live: true, check: notNegative, Help: "Tokens of one user in a day (UTC). 0: no limit."},
			{Key: "budget_user_month_usd", Default: 0.0, Live: true, check: dollars, Help: "US dollars of one user in a month (UTC). 0: no limit."},
			{Key: "budget_user_month_tokens", Default: 0, Live: true, check: notNegative, Help: "Tokens of one user in a month (UTC). 0: no limit."},
			{Key: "budget_day_usd", Default: 0.0, Live: true, check: dollars, Help: "US dollars of all users together in a day (UTC). 0: no limit."},
			{Key: "budget_month_usd", Default: 0.0, Live: true, check: dollars, Help: "US dollars of all users together in a month (UTC). 0: no limit."},
			{Key: "share_spending", Default: false,
				Help: "Whether all cells of a cluster share budget_day_usd and budget_month_usd: each counts what the others have spent, which they exchange through Kubernetes every 10 seconds or, beyond 200 cells, 50 milliseconds for each. The name of a cell is its host name."},
			{Key: "user_requests", Default: 600, Live: true, check: between(0, 1_000_000, ""),
				Help: "Requests for the model that one user may send in a minute; a quarter of them at once. 0: no limit."},
			{Key: "prices", Default: []string{}, Live: true,
				Help: "Prices of models in US dollars per million tokens, consulted before the built-in public prices of the vendor: [\"my-model* in=3 out=15 read=0.30\"]. * matches any text. Unless given, write=, write1h= and read= (cache) are 1.25, 2 and 0.1 times in=; long_over=200000 long_times=2 doubles the price of a request with a longer prompt; fast_times=2 sets the factor of fast mode (6 unless given). The vendor's surcharge of a tenth for regional inference is added, for Bedrock and Vertex too. A model without a price is charged at the highest one."},
		}},
		{"Retention", []Setting{
			{Key: "journal_days", Default: 7, Live: true, check: between(1, 36500, ""), Help: "Days that the event logs of jobs are kept."},
			{Key: "jobs_mib", Default: 1024, Live: true, check: between(1, maxMiB, "no limit"),
				Help: "Disk space of all event logs in MiB: beyond it the oldest logs of the user whose logs take the most are removed, except those being written or read. 0: no limit."},
			{Key: "history_mib", Default: 512, Live: true, check: between(1, maxMiB, "no limit"),
				Help: "Disk space of the versions of one project in MiB, not part of disk_mib. Beyond it the oldest versions are removed; the newest of each project always stays. 0: no limit."},
			{Key: "history_user_mib", Default: 1024, Live: true, check: between(1, maxMiB, "no limit"),
				Help: "The same for all projects of one user. 0: no limit."},
			{Key: "usage_days", Default: usage.DefaultDays, check: between(1, 36500, ""), Help: "Days that the ledger of model usage is kept."},
			{Key: "audit_mib", Default: 512, check: between(1, 1<<20, ""), Help: "Disk space of the audit log in MiB; the oldest part is removed first."},
		}},
		{"Webhooks", []Setting{
			{Key: "webhooks", Default: []webhook.Entry{}, Live: true, Example: webhooksExample,
				Help: "Programs that are told when a job ends: a list of addresses, which get a POST with the job's record until they answer with a status of 2xx. Messages are signed by the Standard Webhooks specification with the key in a sealed secret, NAME or NAME/KEY; every key of the secret signs. In the environment it is the same list as JSON."},
		}},
		{"Egress from sandboxes", []Setting{
			{Key: "allow_hosts", Default: []string{}, Flag: "allow-host",
				FlagHelp: "host that sandboxes reach: HOST[:PORT] or *.DOMAIN[:PORT]; may be repeated (default: none)",
				Help:     "Hosts that sandboxes can reach: HOST or HOST:PORT (443 unless given). None by default: then a sandbox has no network. \"*.example.com\" matches every host below that name. A host must not resolve to a private network or this machine. Everything the agent knows can be sent to an allowed host."},
			{Key: "allow_private_hosts", Default: []string{}, Flag: "allow-private-host",
				FlagHelp: "the same for a host on a private network or this machine: HOST:PORT",
				Help:     "The same for hosts on a private network or this machine: HOST:PORT."},
			{Key: "inject", Default: []string{}, Flag: "inject",
				FlagHelp: "secret for the requests to an allowed host: HOST[:PORT]=SECRET[/KEY]:HEADER[:SCHEME]; may be repeated",
				Help:     "Secrets added to requests for a host: HOST[:PORT]=SECRET[/KEY]:HEADER or …:HEADER:SCHEME, such as api.example.com=openai:Authorization:Bearer. The host must be allowed by its own name. \"dreamcore secret create\" seals the secret; sandboxes never see it."},
			{Key: "egress_mib", Default: 1024, check: between(1, maxMiB, ""), Help: "What one job may send to these hosts and receive from them, together, in MiB."},
		}},
		{"Previews", []Setting{
			{Key: "preview_domain", Default: "",
				Help: "The domain of game previews: each game gets a host name of its own below it, so that no game reaches another one. [http[s]://]DOMAIN[:PORT] as browsers see it; https unless given. Point *.DOMAIN at this machine or at the proxy in front of it, and use a domain that serves nothing else. Empty: localhost if the service listens on loopback, else none. \"off\": no previews."},
			{Key: "preview_listen", Default: "", check: optional(address),
				Help: "A separate address for previews, HOST:PORT. Without a domain all games share one origin there: they are still isolated from each other, but have no storage."},
			{Key: "preview_hosts", Default: []string{},
				Help: "Origins that games may load from and connect to besides their own files, such as [https://cdn.jsdelivr.net]: games can also send what players type there."},
			{Key: "preview_frame_ancestors", Default: []string{}, Help: "Origins whose pages may show games in frames, such as [https://app.example.com]."},
		}},
		{"The router", []Setting{
			{Key: "cells", Default: "", check: optional(absolutePath), Flag: "cells",
				FlagHelp: "file with the cells behind the router, NAME HOST:PORT on each line (default: Kubernetes)",
				Help:     "Of \"dreamcore route\": a file with the cells behind the router, with an absolute path: on each line a name and HOST:PORT. They share the users evenly, so do not change it while there are users. Empty: Kubernetes, in which the router runs."},
			{Key: "cells_service", Default: "cell", check: label,
				Help: "The service of Kubernetes whose pods are the cells. It has no cluster address (clusterIP: None)."},
			{Key: "cell_addresses", Default: "", check: optional(absolutePath), Flag: "cell-addresses",
				FlagHelp: "file with addresses of the cells, NAME HOST:PORT on each line; the map stays in Kubernetes",
				Help:     "A file with the addresses of the cells, with an absolute path: on each line a name and HOST:PORT. For cells that are not pods of cells_service; the map of users is in Kubernetes all the same. Empty: the pods of cells_service."},
			{Key: "kubernetes_api", Default: "", check: optional(webAddress), Flag: "kubernetes-api",
				FlagHelp: "address of the API server, https://HOST:PORT (default: that of the cluster of this pod)",
				Help:     "The address of the API server of Kubernetes, https://HOST:PORT. Empty: that of the cluster in which this runs."},
			{Key: "kubernetes_account", Default: "/var/run/secrets/kubernetes.io/serviceaccount", check: absolutePath, Flag: "kubernetes-account",
				FlagHelp: "directory of the service account: token, ca.crt and namespace (default: that of this pod)",
				Help:     "The directory of the service account with which the router reads the map of cells, \"dreamcore cells\" changes it, and cells exchange their spending: token, ca.crt and namespace. The token is read again for each request."},
			{Key: "hold", Default: time.Minute, check: lasting(0, 10*time.Minute), Flag: "hold",
				FlagHelp: "how long a request waits for a cell that restarts or a user who moves (default 1m)",
				Help:     "How long the router holds a request while its cell does not answer or its user moves. Then the client gets status 503."},
			{Key: "held_requests", Default: 1000, check: between(1, 100_000, ""),
				Help: "Requests that the router holds at the same time; a quarter of them without the internal secret. More get status 503 at once."},
			{Key: "preview_key_file", Default: "", check: optional(absolutePath),
				Help: "A file with the key of previews that all cells share (the secret preview-key), with an absolute path. With it and preview_domain the router finds the cells of games that browsers ask for. Empty: the router does not pass on previews."},
		}},
	}
}

const webhooksExample = `webhooks:
  - url: https://app.example.com/hooks/dreamcore
    secret: webhook                       # secret create webhook KEY=whsec_…
    events: [job.succeeded, job.failed, job.cancelled]   # all, if left out
  - url: https://hooks.example.com        # requests may name an address at this host
    secret: webhook                       # in webhook_url; its own gets nothing
    per_request: true
  - url: http://10.0.0.5:8080/hook        # on a private network or this machine,
    secret: webhook                       # also without TLS
    private: true`

const upstreamsExample = `model: claude-sonnet-4-5-20250929       # what the agent requests
upstreams:
  - name: vendor
    kind: anthropic
    base_url: https://api.anthropic.com   # the default
    api_key: anthropic-api-key            # or bearer: SECRET; none: no key
    header_timeout: 30s                   # then the next one is asked
  - name: vertex
    kind: vertex
    project: my-project
    region: us-east5                      # or global, us, eu
    service_account: vertex               # secret create vertex JSON=- < key.json
    models: {claude-sonnet-4-5-20250929: claude-sonnet-4-5@20250929}
  - name: bedrock
    kind: bedrock
    region: us-east-1
    aws_credentials: aws                  # a secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
                                          # and optionally AWS_SESSION_TOKEN; or
                                          # aws_credentials_file: /path and aws_profile: default
    models: {claude-sonnet-4-5-20250929: us.anthropic.claude-sonnet-4-5-20250929-v1:0}
  - name: local
    kind: anthropic
    base_url: http://10.0.0.5:4000        # http elsewhere needs allow_http: true
    api_key: none
    ca_file: ""                           # certificates besides the machine's, PEM
    models: {"*": qwen3-coder}`
