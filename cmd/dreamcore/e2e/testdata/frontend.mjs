// A client of the service, written from its HTTP contract alone: it calls every
// endpoint as the existing clients do, and plays a session of a front end.
// usage: SECRET=… node frontend.mjs URL
//
// The model behind the service plays what the request names: SCENE:name for
// the agent, ANSWER<<text>> or FAIL<<>> for a prompt endpoint.
//
// It prints a line for each check, "ok", a tab and its name, or "FAIL", its name
// and the reason with tabs between them, and exits with 1 after a failed one.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import http from 'node:http';

const base = process.argv[2].replace(/\/$/, '');
const secret = process.env.SECRET;
const alice = randomUUID();
const game = randomUUID();

let failed = 0;

async function check(name, run) {
  try {
    await run();
    console.log(`ok\t${name}`);
  } catch (e) {
    failed++;
    console.log(`FAIL\t${name}\t${String(e.stack || e).replace(/\s+/g, ' ').slice(0, 1500)}`);
  }
}

// ---- Requests ----

function call(path, { method = 'POST', body, headers = {}, auth = true, signal } = {}) {
  const all = { ...headers };
  if (auth) all['X-Modal-Secret'] = secret;
  if (body !== undefined) all['Content-Type'] ??= 'application/json';
  const sent = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
  return fetch(base + path, { method, headers: all, body: sent, signal });
}

async function json(path, options) {
  const res = await call(path, options);
  const text = await res.text();
  try {
    return { status: res.status, body: JSON.parse(text), headers: res.headers };
  } catch {
    throw new Error(`${path}: ${res.status} is no JSON: ${text.slice(0, 200)}`);
  }
}

async function refused(path, options, status, error) {
  const { status: got, body } = await json(path, options);
  assert.equal(got, status, `${path}: ${JSON.stringify(body)}`);
  if (error !== undefined) assert.equal(body.error, error);
  assert.equal(typeof body.error, 'string');
  return body;
}

const query = (o) => new URLSearchParams(o).toString();
const get = (path) => json(path, { method: 'GET' });

// ---- Server-sent events ----

// events reads a stream line by line and refuses everything that an old client
// could misread. Each is {id, data}; where ids are wanted, every event has one.
async function* events(res, { ids = false } = {}) {
  assert.equal(res.status, 200, `status ${res.status}`);
  assert.match(res.headers.get('content-type'), /^text\/event-stream\b/);
  assert.equal(res.headers.get('cache-control'), 'no-cache');
  assert.equal(res.headers.get('x-accel-buffering'), 'no');
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let rest = '', id = null, last = 0, data = null, ended = false;
  for await (const chunk of res.body) {
    rest += decoder.decode(chunk, { stream: true });
    for (let at; (at = rest.indexOf('\n')) >= 0; rest = rest.slice(at + 1)) {
      const line = rest.slice(0, at);
      assert.ok(!line.includes('\r'), `a carriage return in ${JSON.stringify(line)}`);
      if (line === '') {
        if (data === null) {
          assert.equal(id, null, 'an id without data');
          continue; // after a comment
        }
        assert.ok(!ended, `an event after the last one: ${JSON.stringify(data)}`);
        if (ids) assert.notEqual(id, null, `no id before ${JSON.stringify(data)}`);
        ended = data.type === 'done' || data.type === 'error';
        yield { id, data };
        id = data = null;
      } else if (line.startsWith(':')) {
        assert.equal(id ?? data, null, 'a comment inside an event');
      } else if (line.startsWith('id: ')) {
        assert.equal(data, null, 'an id behind its data');
        assert.equal(id, null, 'two ids of one event');
        assert.match(line, /^id: [1-9][0-9]*$/);
        id = Number(line.slice(4));
        assert.ok(id > last, `id ${id} after ${last}`);
        last = id;
      } else if (line.startsWith('data: ')) {
        assert.equal(data, null, 'an event of two lines');
        data = JSON.parse(line.slice(6));
        assert.ok(data !== null && typeof data === 'object' && !Array.isArray(data), line);
      } else {
        assert.fail(`unknown line ${JSON.stringify(line)}`);
      }
    }
  }
  assert.equal(rest + decoder.decode(), '', 'the stream ends inside a line');
  assert.ok(ended, 'the stream ends without a terminal event');
}

async function all(res, options) {
  const list = [];
  for await (const e of events(res, options)) list.push(e);
  return list;
}

const types = (list) => list.map((e) => e.data.type);
const last = (list) => list.at(-1).data;

async function generate(fields, options = {}) {
  const res = await call('/generate_game', { body: { user_id: alice, project_id: game, ...fields }, ...options });
  const list = await all(res, { ids: true });
  return { list, job: res.headers.get('x-job-id') };
}

// made checks a generation that succeeds and returns its debug event.
function made({ list }) {
  assert.deepEqual(last(list), { type: 'done', exit_code: 0 }, JSON.stringify(list.slice(-3)));
  const debug = list.at(-2).data;
  assert.equal(debug.type, 'debug');
  assert.equal(debug.exit_code, 0);
  for (const n of ['elapsed_seconds', 'output_line_count']) assert.equal(typeof debug[n], 'number', n);
  assert.equal(typeof debug.sandbox_reused, 'boolean');
  assert.match(debug.git_commit, /^[0-9a-f]{7}$/);
  return debug;
}

async function apply(fields, options = {}) {
  return all(await call('/apply_files', { body: { user_id: alice, project_id: game, ...fields }, ...options }));
}

const versions = async (project = game) => {
  const { status, body } = await json('/apply_files', { body: { user_id: alice, project_id: project, action: 'git_log' } });
  assert.equal(status, 200);
  return body.commits;
};

// ---- Who may call ----

const posts = [
  'generate_game', 'test_sandbox_io', 'test_gvisor', 'test_stream', 'test_volume', 'test_auth', 'prewarm_sandbox',
  'apply_files', 'get_skill_content', 'detect_intent', 'detect_skills', 'chat_haiku', 'chat_sonnet',
  'generate_publish_info', 'v2_detect_intent', 'v2_chat_haiku', 'v2_generate_code', `jobs/${randomUUID()}/cancel`,
];
const gets = ['get_file', 'list_files', `jobs/${randomUUID()}/events`];

for (const [method, names] of [['POST', posts], ['GET', gets]]) {
  for (const name of names) {
    await check(`401 of ${name.replace(/[0-9a-f-]{36}/, 'ID')}`, async () => {
      const body = method === 'POST' ? 'no JSON, and never read' : undefined;
      for (const headers of [{}, { 'X-Modal-Secret': '' }, { 'X-Modal-Secret': 'wrong' }, { 'X-Modal-Secret': secret + 'x' }]) {
        const answer = await refused('/' + name, { method, auth: false, headers, body }, 401, 'Unauthorized');
        assert.ok(!JSON.stringify(answer).includes(secret));
      }
    });
  }
}

await check('health', async () => {
  const { status, body } = await json('/health', { method: 'GET', auth: false });
  assert.equal(status, 200);
  assert.equal(body.status, 'healthy');
  assert.equal(body.app, 'dreamcore');
  assert.equal(typeof body.version, 'string');
});

await check('test_auth, by both headers', async () => {
  for (const options of [{}, { auth: false, headers: { Authorization: `Bearer ${secret}` } }]) {
    const { status, body } = await json('/test_auth', options);
    assert.equal(status, 200);
    assert.equal(body.success, true);
    assert.equal(typeof body.message, 'string');
  }
  await refused('/test_auth', { auth: false, headers: { Authorization: 'Bearer wrong' } }, 401, 'Unauthorized');
});

await check('addresses: dashes, and a host label', async () => {
  assert.equal((await json('/test-auth')).body.success, true);
  const status = await new Promise((resolve, reject) => {
    const headers = { Host: 'acme--dreamcore-test-auth.modal.run', 'X-Modal-Secret': secret };
    http.request(base + '/', { method: 'POST', headers }, (res) => resolve(res.resume().statusCode)).on('error', reject).end();
  });
  assert.equal(status, 200);
});

await check('unknown paths and methods', async () => {
  await refused('/no_such_endpoint', { body: {} }, 404);
  await refused('/generate_game', { method: 'GET' }, 405);
  await refused('/list_files', { body: {} }, 405);
});

// ---- Checks ----

await check('test_sandbox_io', async () => {
  const { status, body } = await json('/test_sandbox_io');
  assert.equal(status, 200);
  const { success, input, output, match } = body;
  assert.deepEqual({ success, input, output, match }, { success: true, input: 'hello', output: 'hello', match: true });
});

await check('test_gvisor', async () => {
  const { body } = await json('/test_gvisor');
  assert.equal(body.success, true);
  assert.equal(body.is_gvisor, true);
  assert.match(body.proc_version, /^Linux version /);
});

await check('test_stream', async () => {
  const list = await all(await call('/test_stream'));
  assert.equal(list.length, 6);
  assert.deepEqual(list.slice(0, 5).map((e) => e.data.count), [1, 2, 3, 4, 5]);
  assert.equal(last(list).type, 'done');
});

await check('test_volume', async () => {
  const { body } = await json('/test_volume');
  assert.equal(body.success, true, JSON.stringify(body));
  assert.match(body.test_id, /^[0-9a-f-]{36}$/);
  assert.equal(body.written, body.read);
  assert.equal(body.match, true);
});

await check('prewarm_sandbox', async () => {
  for (const wanted of [/^(already_)?warm(ed)?$/, /^already_warm$/]) {
    const { status, body } = await json('/prewarm_sandbox', { body: { user_id: alice } });
    assert.equal(status, 200, JSON.stringify(body));
    assert.match(body.status, wanted);
    assert.equal(body.sandbox_name, `user-${alice}`);
  }
  await refused('/prewarm_sandbox', { body: {} }, 400, 'user_id is required');
});

// ---- generate_game ----

await check('generate_game: requests that are refused', async () => {
  const good = { user_id: alice, project_id: game, prompt: 'a game' };
  for (const body of ['', 'user_id=1', '[]', '"x"', 'null', '{"user_id":']) {
    await refused('/generate_game', { body }, 400, 'Invalid JSON');
  }
  for (const id of ['user_id', 'project_id']) {
    await refused('/generate_game', { body: { ...good, [id]: undefined } }, 400, `${id} is required`);
    for (const wrong of ['../../etc', `{${alice}}`, `urn:uuid:${alice}`, alice.replaceAll('-', ''), alice + '\n']) {
      await refused('/generate_game', { body: { ...good, [id]: wrong } }, 400, `Invalid ${id}: must be UUID format`);
    }
  }
  for (const prompt of [undefined, '', null]) {
    await refused('/generate_game', { body: { ...good, prompt } }, 400, 'prompt is required');
  }
  await refused('/generate_game', { body: { ...good, commit_message: 7 } }, 400);
});

await check('generate_game: a body over the limit', async () => {
  await refused('/generate_game', { body: { user_id: alice, project_id: game, prompt: 'x'.repeat(12 << 20) } }, 413);
});

await check('generate_game: the failures of _test_error', async () => {
  const wanted = {
    timeout: ['CLI_TIMEOUT', true, 124], general: ['CLI_GENERAL_ERROR', false, 1],
    sandbox: ['SANDBOX_ERROR', false], network: ['NETWORK_ERROR', true], rate_limit: ['RATE_LIMIT', true],
  };
  for (const [error, [code, recoverable, exitCode]] of Object.entries(wanted)) {
    const { list } = await generate({ prompt: 'x', _test_error: error });
    assert.equal(list[0].data.type, 'status');
    const e = last(list);
    assert.deepEqual([e.type, e.code, e.recoverable, e.exitCode], ['error', code, recoverable, exitCode]);
    assert.ok(e.userMessage.length > 0);
  }
});

await check('generate_game: sentences in the language of the player', async () => {
  for (const [language, script] of [['ja', /[ぁ-ん]/], ['en-US,en;q=0.9', /^[\x20-\x7e’]+$/]]) {
    const { list } = await generate({ prompt: 'x', _test_error: 'network' }, { headers: { 'Accept-Language': language } });
    assert.match(last(list).userMessage, script);
  }
});

// ---- A session of a front end ----

const system = '<system>\nYou write browser games.\nRead .claude/skills/p5js-setup/SKILL.md first.\n</system>\n\n';
let first, events1, job1;

await check('session: what the first message is about', async () => {
  const { status, body } = await json('/detect_intent', { body: { message: 'make an ice snake game ANSWER<<edit>>' } });
  assert.equal(status, 200);
  assert.deepEqual(body, { intent: 'edit' });
  const skills = await json('/detect_skills', { body: { message: 'a snake ANSWER<<["p5js-input"]>>', dimension: '2d', existing_code: '' } });
  assert.equal(skills.status, 200);
  assert.deepEqual(skills.body.skills, ['p5js-setup', 'p5js-input']);
  const texts = await json('/get_skill_content', { body: { skill_names: skills.body.skills } });
  assert.deepEqual(Object.keys(texts.body.skills).sort(), ['p5js-input', 'p5js-setup']);
});

await check('session: create', async () => {
  const run = await generate({ prompt: `${system}make an ice snake game SCENE:create` });
  const debug = made(run);
  ({ list: events1, job: job1 } = run);
  assert.match(job1, /^[0-9a-f-]{36}$/);
  first = debug.git_commit;
  const order = types(run.list);
  assert.equal(order[0], 'status');
  for (const [a, b] of [['status', 'system'], ['system', 'assistant'], ['assistant', 'result'], ['result', 'debug']]) {
    assert.ok(order.indexOf(a) >= 0 && order.indexOf(a) < order.indexOf(b), `${a} before ${b}: ${order}`);
  }
  const saved = run.list.find((e) => e.data.type === 'log' && e.data.content === `Git commit created: ${first}`);
  assert.equal(saved?.data.level, 'info');
  assert.ok(order.indexOf('result') < run.list.indexOf(saved), 'saved after the agent');
});

await check('session: the agent has read its skill in the project', async () => {
  const seen = events1.filter((e) => e.data.type === 'user').map((e) => JSON.stringify(e.data)).join('\n');
  assert.match(seen, /How p5js-setup is used/);
});

await check('session: preview', async () => {
  const { body } = await get('/list_files?' + query({ user_id: alice, project_id: game }));
  assert.deepEqual(body, { files: ['game.js', 'index.html'] });
  const page = await call('/get_file?' + query({ user_id: alice, project_id: game }), { method: 'GET' });
  assert.equal(page.status, 200);
  assert.match(await page.text(), /game\.js/);
});

await check('session: a question', async () => {
  const intent = await json('/detect_intent', { body: { message: 'how do I steer? ANSWER<<chat>>' } });
  assert.equal(intent.body.intent, 'chat');
  const answer = { message: 'With the arrow keys.', suggestions: ['Add touch', 'Add sound'] };
  const { status, body } = await json('/chat_haiku', {
    body: {
      message: `how do I steer? ANSWER<<${JSON.stringify(answer)}>>`, game_spec: 'A snake on ice.',
      conversation_history: [{ role: 'user', content: 'make an ice snake game' }, { role: 'assistant', content: 'Done.' }],
    },
  });
  assert.equal(status, 200);
  assert.deepEqual(body, answer);
  assert.equal((await versions()).length, 1, 'a question makes no version');
});

await check('session: edit', async () => {
  const debug = made(await generate({ prompt: `${system}make it faster SCENE:edit` }));
  assert.notEqual(debug.git_commit, first);
  assert.equal(debug.sandbox_reused, true);
});

// begin starts a generation and returns once the agent runs its command.
async function begin(fields, signal) {
  const res = await call('/generate_game', { body: { user_id: alice, project_id: game, ...fields }, signal });
  const stream = events(res, { ids: true });
  const seen = [];
  for (;;) {
    const { value, done } = await stream.next();
    if (done) assert.fail(`it ended: ${JSON.stringify(seen.at(-1))}`);
    seen.push(value);
    const content = value.data.type === 'assistant' ? value.data.message?.content ?? [] : [];
    if (content.some((c) => c.type === 'tool_use' && c.name === 'Bash')) break;
  }
  return { stream, seen, job: res.headers.get('x-job-id') };
}

// after reads the events of a job behind one of them.
const after = (job, id, headers = {}) => call(`/jobs/${job}/events` + (id === undefined ? '' : `?after=${id}`), { method: 'GET', headers });

await check('session: stop, and a new prompt at once', async () => {
  const stop = new AbortController();
  const old = await begin({ prompt: `${system}add a boss SCENE:slow` }, stop.signal);
  stop.abort();
  const began = Date.now();
  const res = await call('/generate_game', { body: { user_id: alice, project_id: game, prompt: `${system}add snow SCENE:next` } });
  const list = [];
  let latency;
  for await (const e of events(res, { ids: true })) {
    latency ??= Date.now() - began;
    list.push(e);
  }
  made({ list });
  console.log(`note first event ${latency} ms after the abort`);
  assert.ok(latency < 10_000, `the first event came after ${latency} ms`);
  const rest = await all(await after(old.job), { ids: true });
  assert.deepEqual([last(rest).type, last(rest).code], ['error', 'CLI_TERMINATED']);
});

await check('session: a listener comes back by job id, and cancels', async () => {
  const stop = new AbortController();
  const { job, seen } = await begin({ prompt: 'add a boss SCENE:slow' }, stop.signal);
  stop.abort();
  const res = await after(job, seen.at(-1).id);
  const cancelled = await call(`/jobs/${job}/cancel`);
  assert.ok(cancelled.ok, `cancel: ${cancelled.status}`);
  const rest = await all(res, { ids: true });
  assert.equal(last(rest).code, 'CLI_TERMINATED');
  assert.ok(rest[0].id > seen.at(-1).id);
  assert.ok((await call(`/jobs/${job}/cancel`)).ok, 'cancel is idempotent');
});

await check('session: a second prompt waits while the first has a listener', async () => {
  const { job, stream } = await begin({ prompt: 'add a boss SCENE:slow' });
  const res = await call('/generate_game', { body: { user_id: alice, project_id: randomUUID(), prompt: 'another SCENE:create' } });
  assert.equal(res.status, 200, 'not refused');
  const second = events(res, { ids: true });
  const { value } = await second.next();
  assert.equal(value.data.type, 'status');
  assert.ok((await call(`/jobs/${job}/cancel`)).ok);
  let end;
  for await (const e of stream) end = e.data;
  assert.equal(end.code, 'CLI_TERMINATED');
  for await (const e of second) end = e.data;
  assert.deepEqual(end, { type: 'done', exit_code: 0 });
});

await check('jobs: events once more, whole and from the middle', async () => {
  const whole = await all(await after(job1), { ids: true });
  assert.deepEqual(whole, events1);
  const middle = events1[3].id;
  const rest = events1.slice(4);
  assert.deepEqual(await all(await after(job1, middle), { ids: true }), rest);
  assert.deepEqual(await all(await after(job1, undefined, { 'Last-Event-ID': String(middle) }), { ids: true }), rest);
  const unknown = await after(randomUUID());
  assert.equal(unknown.status, 404);
});

await check('session: versions are called by the player\'s words', async () => {
  const list = await versions();
  for (const v of list) {
    assert.match(v.hash, /^[0-9a-f]{7}$/);
    assert.match(v.date, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)$/);
    assert.ok([...v.message].length <= 72 && !v.message.includes('\n'), v.message);
  }
  const names = list.map((v) => v.message).reverse();
  assert.deepEqual(names.slice(0, 2), ['make an ice snake game SCENE:create', 'make it faster SCENE:edit']);
  assert.ok(names.includes('add snow SCENE:next'), names.join(' | '));
  assert.equal(list.at(-1).hash, first);
});

await check('session: restore', async () => {
  const file = () => call('/get_file?' + query({ user_id: alice, project_id: game, path: 'game.js' }), { method: 'GET' }).then((r) => r.text());
  assert.match(await file(), /edit/);
  const { body: intent } = await json('/detect_intent', { body: { message: 'the first one again ANSWER<<restore>>' } });
  assert.equal(intent.intent, 'restore');
  const { status, body } = await json('/apply_files', { body: { user_id: alice, project_id: game, action: 'git_restore', commit: first } });
  assert.equal(status, 200);
  assert.equal(body.success, true);
  assert.deepEqual(body.restored_files.sort(), ['game.js', 'index.html']);
  assert.equal(await file(), '// create\n');
  assert.equal((await versions())[0].message, `Restored to ${first}`);
});

await check('session: publish info', async () => {
  const info = { title: 'Ice Snake', description: 'A snake on ice.', howToPlay: 'Arrow keys.', tags: ['snake', 'ice'] };
  const { status, body } = await json('/generate_publish_info', {
    body: { user_id: alice, project_id: game, project_name: 'Ice', game_code: '// create', spec_content: `ANSWER<<${JSON.stringify(info)}>>` },
  });
  assert.equal(status, 200);
  assert.deepEqual(body, info);
});

await check('session: nothing of the skills is in the project', async () => {
  const { body } = await get('/list_files?' + query({ user_id: alice, project_id: game }));
  assert.ok(!JSON.stringify(body).includes('claude'));
  const res = await call('/get_file?' + query({ user_id: alice, project_id: game, path: '.claude/skills/p5js-setup/SKILL.md' }), { method: 'GET' });
  assert.equal(res.status, 404);
  for (const v of await versions()) {
    const { body } = await json('/apply_files', { body: { user_id: alice, project_id: game, action: 'git_diff', commit: v.hash } });
    assert.ok(!body.diff.includes('.claude'), body.diff);
  }
});

await check('generate_game: commit_message', async () => {
  made(await generate({ prompt: `${system}more snow SCENE:next`, commit_message: 'Winter\nupdate' }));
  assert.equal((await versions())[0].message, 'Winter update');
});

// ---- Files ----

const files = randomUUID(); // a project that no agent has touched

await check('apply_files: create, update, delete', async () => {
  const list = await apply({
    project_id: files, commit_message: 'By hand',
    files: [
      { path: 'page.html', content: '<p>氷', action: 'create' }, { path: 'assets/a.svg', content: '<svg/>', action: 'create' },
      { path: 'style.css', content: 'p{}', action: 'update' }, { path: 'notes.txt', content: 'notes', action: 'create' },
      { path: 'gone.js', content: '1', action: 'create' },
    ],
  });
  assert.equal(list[0].data.type, 'status');
  const result = list.find((e) => e.data.type === 'result').data;
  assert.deepEqual(result.files[0], { path: 'page.html', action: 'create', size: 6 });
  const { type, exit_code, duration_ms } = last(list);
  assert.deepEqual([type, exit_code, typeof duration_ms], ['done', 0, 'number']);
  const removed = await apply({ project_id: files, files: [{ path: 'gone.js', action: 'delete' }] });
  assert.deepEqual(removed.find((e) => e.data.type === 'result').data.files, [{ path: 'gone.js', action: 'delete', size: 0 }]);
  const { body } = await get('/list_files?' + query({ user_id: alice, project_id: files }));
  assert.deepEqual(body.files.sort(), ['assets/a.svg', 'notes.txt', 'page.html', 'style.css']);
  assert.deepEqual((await versions(files)).map((v) => v.message).at(-1), 'By hand');
});

await check('apply_files: any text is a content', async () => {
  for (const content of ['(not a string)', '', '\ud83d\ude00']) {
    const list = await apply({ project_id: files, files: [{ path: 'notes.txt', content }] });
    assert.equal(last(list).type, 'done');
    const res = await call('/get_file?' + query({ user_id: alice, project_id: files, path: 'notes.txt' }), { method: 'GET' });
    assert.equal(await res.text(), content);
  }
});

await check('apply_files: binary files in base64', async () => {
  const png = Buffer.from('89504e470d0a1a0a00ff', 'hex');
  const list = await apply({ project_id: files, files: [{ path: 'assets/a.png', content: png.toString('base64'), encoding: 'base64', action: 'create' }] });
  assert.equal(last(list).type, 'done');
  const res = await call('/get_file?' + query({ user_id: alice, project_id: files, path: 'assets/a.png' }), { method: 'GET' });
  assert.deepEqual(Buffer.from(await res.arrayBuffer()), png);
});

await check('apply_files: what is refused', async () => {
  const before = (await versions(files)).length;
  for (const path of ['../out.txt', '/etc/passwd', 'a/../../b', '.git/config']) {
    const list = await apply({ project_id: files, files: [{ path: 'fine.txt', content: 'x' }, { path, content: 'x' }] });
    const e = last(list);
    assert.deepEqual([e.type, e.code, typeof e.message], ['error', 'PERMISSION_ERROR', 'string'], path);
  }
  const { body } = await get('/list_files?' + query({ user_id: alice, project_id: files }));
  assert.ok(!body.files.includes('fine.txt'), 'nothing is written');
  assert.equal((await versions(files)).length, before);
  const ids = { user_id: alice, project_id: files };
  for (const wrong of [undefined, [], 'x']) await refused('/apply_files', { body: { ...ids, files: wrong } }, 400, 'files array is required');
  await refused('/apply_files', { body: { ...ids, action: 'x' } }, 400, 'Unknown action: x');
  await refused('/apply_files', { body: { project_id: files } }, 400, 'user_id is required');
  await refused('/apply_files', { body: 'x' }, 400, 'Invalid JSON');
});

await check('git_log, git_diff, git_restore', async () => {
  const act = (action, more = {}) => ({ body: { user_id: alice, project_id: files, action, ...more } });
  const { body: one } = await json('/apply_files', act('git_log', { limit: 1 }));
  assert.equal(one.commits.length, 1);
  const unknown = await json('/apply_files', { body: { user_id: alice, project_id: randomUUID(), action: 'git_log' } });
  assert.deepEqual([unknown.status, unknown.body.commits], [200, []]);
  const hash = (await versions(files)).at(-1).hash;
  const { status, body } = await json('/apply_files', act('git_diff', { commit: hash }));
  assert.equal(status, 200);
  assert.match(body.diff, /\+<p>氷/);
  for (const action of ['git_diff', 'git_restore']) {
    await refused('/apply_files', act(action), 400, 'commit is required');
    for (const wrong of ['HEAD', '123456', 'g'.repeat(7), '-rf', hash + '~1']) {
      await refused('/apply_files', act(action, { commit: wrong }), 400, 'Invalid commit hash');
    }
    await refused('/apply_files', act(action, { commit: '0123456789' }), 404, 'Commit not found');
  }
  await refused('/apply_files', { body: { user_id: alice, project_id: randomUUID(), action: 'git_diff', commit: hash } }, 404, 'Git not initialized');
});

await check('get_file: types and caching', async () => {
  const of = (path) => call('/get_file?' + query({ user_id: alice, project_id: files, path }), { method: 'GET' });
  const wanted = {
    'page.html': [/^text\/html/, 'no-store'], 'index.html': [/^text\/html/, 'no-store'], 'assets/a.svg': [/^image\/svg\+xml/, 'private, max-age=3600'],
    'style.css': [/^text\/css/, 'private, max-age=3600'], 'notes.txt': [/^text\/plain/, 'no-cache'], '/page.html': [/^text\/html/, 'no-store'],
  };
  for (const [path, [type, cache]] of Object.entries(wanted)) {
    const res = await of(path);
    assert.equal(res.status, 200, path);
    assert.match(res.headers.get('content-type'), type);
    assert.equal(res.headers.get('cache-control'), cache, path);
    assert.equal(res.headers.get('access-control-allow-origin'), '*');
    await res.arrayBuffer();
  }
  const js = await call('/get_file?' + query({ user_id: alice, project_id: game, path: 'game.js' }), { method: 'GET' });
  assert.match(js.headers.get('content-type'), /^(text|application)\/javascript/);
  assert.equal(js.headers.get('cache-control'), 'private, max-age=3600');
});

await check('get_file and list_files: what is not there', async () => {
  const empty = randomUUID();
  await apply({ project_id: empty, files: [{ path: 'a.js', content: '1' }] });
  const q = (project_id, path) => '/get_file?' + query({ user_id: alice, project_id, ...(path && { path }) });
  await refused(q(files, 'no.js'), { method: 'GET' }, 404, 'File not found');
  await refused(q(randomUUID(), 'a.js'), { method: 'GET' }, 404, 'Project not found');
  await refused(q(empty), { method: 'GET' }, 404, 'No HTML file found');
  for (const path of ['../a.js', 'a/../../b', '..']) await refused(q(files, path), { method: 'GET' }, 400, 'Invalid file path');
  const { status, body } = await get('/list_files?' + query({ user_id: alice, project_id: randomUUID() }));
  assert.equal(status, 404);
  assert.deepEqual([body.error, body.files], ['Project not found', []]);
  await refused('/list_files?' + query({ user_id: alice }), { method: 'GET' }, 400, 'project_id is required');
  await refused('/get_file?' + query({ user_id: 'x', project_id: files }), { method: 'GET' }, 400, 'Invalid user_id: must be UUID format');
});

await check('get_skill_content', async () => {
  const ask = (skill_names) => json('/get_skill_content', { body: { skill_names } });
  const { body } = await ask(['p5js-setup', '../../etc', 'a/b', 'unknown', '']);
  assert.deepEqual(Object.keys(body.skills), ['p5js-setup']);
  assert.match(body.skills['p5js-setup'], /How p5js-setup is used/);
  assert.equal((await ask(Array(21).fill('a'))).status, 400);
  const none = await ask([]);
  assert.deepEqual([none.status, none.body.skills], [200, {}]);
});

// ---- Prompt endpoints ----

await check('prompt endpoints: missing fields', async () => {
  const ids = { user_id: alice, project_id: game };
  for (const name of ['detect_intent', 'detect_skills', 'chat_haiku', 'chat_sonnet', 'v2_detect_intent']) {
    await refused('/' + name, { body: {} }, 400, 'message is required');
    await refused('/' + name, { body: '[' }, 400, 'Invalid JSON');
  }
  await refused('/v2_chat_haiku', { body: {} }, 400, 'prompt is required');
  await refused('/v2_generate_code', { body: ids }, 400, 'prompt is required');
  await refused('/v2_generate_code', { body: { prompt: 'x', project_id: game } }, 400, 'user_id is required');
  await refused('/generate_publish_info', { body: { project_id: game } }, 400, 'user_id is required');
  await refused('/generate_publish_info', { body: { ...ids, user_id: 'x', game_code: 'x' } }, 400, 'Invalid user_id: must be UUID format');
});

for (const name of ['detect_intent', 'detect-intent', 'v2_detect_intent']) {
  await check(`prompt endpoints: ${name}`, async () => {
    const ask = async (message) => {
      const { status, body } = await json('/' + name, { body: { message } });
      assert.equal(status, 200, JSON.stringify(body));
      return body;
    };
    for (const intent of ['restore', 'chat', 'edit']) assert.deepEqual(await ask(`x ANSWER<<${intent}>>`), { intent });
    assert.deepEqual(await ask('make the snake blue FAIL<<>>'), { intent: 'edit', fallback: true });
    const wrong = await ask('make the snake blue ANSWER<<{"intent":"delete"}>>');
    assert.deepEqual(wrong, { intent: 'edit', fallback: true });
  });
}

await check('prompt endpoints: detect_skills', async () => {
  const ask = async (message, dimension) => {
    const { status, body } = await json('/detect_skills', { body: { message, dimension, existing_code: '' } });
    assert.equal(status, 200, JSON.stringify(body));
    return body;
  };
  const fenced = 'Here:\n```json\n["p5js-collision", "no-such-skill", "../p5js-input"]\n```';
  assert.deepEqual(await ask(`x ANSWER<<${fenced}>>`, '2d'), { skills: ['p5js-setup', 'p5js-collision'] });
  assert.deepEqual(await ask('x FAIL<<>>', '2d'), { skills: ['p5js-setup', 'p5js-input', 'p5js-collision'], fallback: true });
  assert.deepEqual(await ask('x FAIL<<>>', '3d'), { skills: ['threejs-setup', 'threejs-input', 'threejs-lighting'], fallback: true });
  const many = await ask(`x ANSWER<<${JSON.stringify(['p5js-input', 'p5js-collision', 'threejs-setup', 'threejs-input', 'threejs-lighting', 'p5js-setup'])}>>`, '2d');
  assert.equal(many.skills.length, 5);
  assert.equal(many.skills[0], 'p5js-setup');
});

for (const name of ['chat_haiku', 'chat_sonnet']) {
  await check(`prompt endpoints: ${name}`, async () => {
    const ask = (message, more = {}) => json('/' + name, { body: { message, ...more } });
    const answer = { message: 'Hello.', suggestions: ['More'] };
    assert.deepEqual((await ask(`hi ANSWER<<${JSON.stringify(answer)}>>`)).body, answer);
    const raw = await ask('hi ANSWER<<as it is>>', { raw_output: true, system_prompt: 'Answer briefly.' });
    assert.deepEqual([raw.status, raw.body], [200, { result: 'as it is' }]);
    const broken = await ask('hi FAIL<<>>');
    assert.equal(broken.status, 500);
    assert.deepEqual(broken.body.suggestions, []);
    assert.ok(broken.body.message.length > 0);
  });
}

await check('prompt endpoints: generate_publish_info', async () => {
  const ask = (spec_content) => json('/generate_publish_info', { body: { user_id: alice, project_id: game, project_name: 'x', game_code: 'x', spec_content } });
  const broken = await ask('FAIL<<>>');
  assert.equal(broken.status, 500);
  assert.equal(typeof broken.body.error, 'string');
  assert.equal((await ask('ANSWER<<{"title":"only"}>>')).status, 500);
});

await check('prompt endpoints: v2_chat_haiku', async () => {
  const ask = (prompt) => json('/v2_chat_haiku', { body: { prompt } });
  const { status, body } = await ask('x ANSWER<<hello>>');
  assert.deepEqual([status, body], [200, { result: 'hello' }]);
  const broken = await ask('x FAIL<<>>');
  assert.equal(broken.status, 502);
  assert.equal(typeof broken.body.error, 'string');
});

await check('prompt endpoints: v2_generate_code', async () => {
  const ask = (answer) => json('/v2_generate_code', { body: { user_id: alice, project_id: game, prompt: answer } });
  const of = (...paths) => `ANSWER<<${JSON.stringify({ files: paths.map((path) => ({ path, content: 'x' })), summary: 'Done.' })}>>`;
  const { status, body } = await ask(of('index.html', 'game.js'));
  assert.equal(status, 200, JSON.stringify(body));
  assert.deepEqual(body, { files: [{ path: 'index.html', content: 'x' }, { path: 'game.js', content: 'x' }], summary: 'Done.', engine_version: 'v2' });
  for (const answer of [of('game.js'), of('index.html', '../evil.js'), of('index.html', 'run.sh'), 'ANSWER<<no JSON>>']) {
    const { status, body } = await ask(answer);
    assert.deepEqual([status, body.error_code, typeof body.error], [502, 'v2_output_invalid', 'string'], answer);
  }
  const broken = await ask('FAIL<<>>');
  assert.deepEqual([broken.status, broken.body.error_code], [502, 'v2_codegen_error']);
});

process.exit(failed === 0 ? 0 : 1);
