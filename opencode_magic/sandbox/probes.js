// The probes that run inside the sandbox. Needs OpenCode's own runtime or Node, nothing else.
// PLAN is put in front of this text; one JSON line a probe goes to stdout.
const net = require("node:net");
const tls = require("node:tls");
const dgram = require("node:dgram");
const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");

const say = (probe, fields) => process.stdout.write(JSON.stringify({ probe, ...fields }) + "\n");
const elapsed = (start) => (Date.now() - start) / 1000;

// The model's host: any HTTP status over verified TLS is an answer. Asked by hand and not with
// fetch, so that the source ports of this probe are known.
async function askModel() {
  const start = Date.now();
  const asked = await askName(PLAN.model);
  const ports = [asked.port];
  if (!asked.address) {
    say("model", { seen: "no answer", detail: asked.detail, ports, s: elapsed(start) });
    return;
  }
  const answer = await new Promise((resolve) => {
    const timer = setTimeout(() => finish({ detail: "no answer in time" }), PLAN.modelTimeoutMs);
    const raw = net.connect({ host: asked.address, port: 443 });
    const finish = (result) => {
      clearTimeout(timer);
      raw.destroy();
      resolve(result);
    };
    raw.on("error", (error) => finish({ detail: error.code || String(error) }));
    raw.on("connect", () => {
      ports.push(raw.localPort);
      const secure = tls.connect({ socket: raw, servername: PLAN.model });
      let head = "";
      const conclude = (other) => {
        const status = head.match(/^HTTP\/1\.[01] (\d{3})/)?.[1];
        const blocked = /\r\nx-opencode-magic-blocked:/i.test(head.split("\r\n\r\n")[0]);
        finish(status ? { status: Number(status), blocked } : { detail: other });
      };
      secure.on("error", (error) => conclude(error.code || String(error)));
      secure.on("close", () => conclude("closed without an answer"));
      secure.on("secureConnect", () => {
        const verified = secure.authorized ? "" : String(secure.authorizationError || "");
        if (verified) return finish({ detail: verified });
        secure.write(`GET / HTTP/1.1\r\nhost: ${PLAN.model}\r\nconnection: close\r\n\r\n`);
      });
      secure.on("data", (data) => {
        head += data.toString("latin1");
        if (head.includes("\r\n\r\n") || head.length > 65536) conclude("not HTTP");
      });
    });
  });
  const seen = answer.status ? "answered" : "no answer";
  say("model", { seen, ...answer, ports, s: elapsed(start) });
}

// One DNS question from a socket of our own, so that its source port names it.
function askName(name) {
  return new Promise((resolve) => {
    let server = "127.0.0.1";
    try {
      const text = fs.readFileSync("/etc/resolv.conf", "utf8");
      server = text.match(/^\s*nameserver\s+(\S+)/m)?.[1] || server;
    } catch {}
    const socket = dgram.createSocket(net.isIPv6(server) ? "udp6" : "udp4");
    let port = 0;
    const timer = setTimeout(() => finish({ detail: "no DNS answer" }), PLAN.timeoutMs);
    const finish = (result) => {
      clearTimeout(timer);
      try {
        socket.close();
      } catch {}
      resolve({ port, ...result });
    };
    socket.on("error", (error) => finish({ detail: error.code || String(error) }));
    socket.on("message", (message) => {
      const code = message[3] & 15;
      const address = code === 0 ? firstAddress(message) : null;
      const names = { 0: "no address", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED" };
      finish(address ? { address } : { detail: names[code] || `DNS code ${code}` });
    });
    const labels = name.split(".").flatMap((label) => [label.length, ...Buffer.from(label)]);
    const id = crypto.randomBytes(2);
    const question = Buffer.from([...id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...labels, 0, 0, 1, 0, 1]);
    socket.bind(0, () => {
      port = socket.address().port;
      socket.send(question, 53, server, (error) => error && finish({ detail: error.code }));
    });
  });
}

function firstAddress(message) {
  let at = 12;
  while (message[at] !== 0) at += message[at] + 1;
  at += 5;
  for (let left = message.readUInt16BE(6); left > 0 && at + 12 <= message.length; left--) {
    at += message[at] >= 192 ? 2 : message.indexOf(0, at) + 1 - at;
    const type = message.readUInt16BE(at);
    const size = message.readUInt16BE(at + 8);
    at += 10;
    if (type === 1 && size === 4) return [...message.subarray(at, at + 4)].join(".");
    at += size;
  }
  return null;
}

// A TLS handshake, or a bare connection where there is no servername; through means that it stood.
function connect(address, port, servername) {
  return new Promise((resolve) => {
    let local = 0;
    let timer;
    const raw = net.connect({ host: address, port });
    const finish = (seen, detail) => {
      clearTimeout(timer);
      raw.destroy();
      resolve({ seen, detail, port: local });
    };
    timer = setTimeout(() => finish("no answer", "no answer in time"), PLAN.timeoutMs);
    raw.on("error", (error) => finish("refused", error.code || String(error)));
    raw.on("connect", () => {
      local = raw.localPort;
      if (servername === null) return finish("got through", "connected");
      const secure = tls.connect({ socket: raw, servername, rejectUnauthorized: false });
      secure.on("secureConnect", () => finish("got through", "TLS stood"));
      secure.on("error", (error) => finish("refused", error.code || String(error)));
      secure.on("close", () => finish("refused", "closed by the wall"));
    });
  });
}

async function tryName() {
  const start = Date.now();
  const asked = await askName(PLAN.name);
  if (!asked.address) {
    const seen = asked.detail === "no DNS answer" ? "no answer" : "refused";
    say("name", { seen, ...asked, s: elapsed(start) });
    return;
  }
  say("name", { ...(await connect(asked.address, 443, PLAN.name)), s: elapsed(start) });
}

async function tryAddress(probe, port, servername) {
  const start = Date.now();
  say(probe, { ...(await connect(PLAN.address, port, servername)), s: elapsed(start) });
}

// The key: every window of its length whose rolling hash ends in the given 24 bits goes out as a
// salted SHA-256 and is compared outside. The key itself is never here.
function scan(buffer, hits) {
  const { length, base, bits, salt } = PLAN.key;
  if (buffer.length < length) return;
  let lead = 1;
  for (let i = 1; i < length; i++) lead = Math.imul(lead, base);
  let hash = 0;
  for (let i = 0; i < buffer.length; i++) {
    if (i >= length) hash = (hash - Math.imul(lead, buffer[i - length])) | 0;
    hash = (Math.imul(hash, base) + buffer[i]) | 0;
    if (i >= length - 1 && hash >>> 8 === bits) {
      const window = buffer.subarray(i - length + 1, i + 1);
      hits.add(crypto.createHash("sha256").update(salt).update(window).digest("hex"));
    }
  }
}

// A file that went away meanwhile is no gap; all else that was not read to its end is.
async function findKey() {
  const start = Date.now();
  const hits = new Set();
  const chunk = Buffer.alloc(PLAN.key.chunkBytes);
  let left = PLAN.key.limitBytes;
  let isWhole = true;
  let files = 0;
  let processes = 0;
  let turned = Date.now();
  const isOver = () => left <= 0 || Date.now() - start > PLAN.key.timeoutMs;
  const missed = (error) => {
    // The first process is the home's own, and closed to everything inside.
    const isInit = error.code === "EACCES" && error.path === `${PLAN.key.processes}/1/environ`;
    if (!isInit && !["ENOENT", "ESRCH"].includes(error.code)) isWhole = false;
  };
  // The other probes run meanwhile, and have their own time limits.
  const giveWay = async () => {
    if (Date.now() - turned < 20) return;
    await new Promise((resolve) => setImmediate(resolve));
    turned = Date.now();
  };
  const read = async (file) => {
    let handle = null;
    let kept = 0; // what two chunks share, so that a key across their border is found
    try {
      handle = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
      for (;;) {
        if (isOver()) {
          isWhole = false;
          return;
        }
        const size = fs.readSync(handle, chunk, kept, chunk.length - kept, null);
        if (size === 0) break;
        left -= size;
        scan(chunk.subarray(0, kept + size), hits);
        const end = kept + size;
        kept = Math.min(PLAN.key.length - 1, end);
        chunk.copyWithin(0, end - kept, end);
        await giveWay();
      }
      files++;
    } catch (error) {
      missed(error);
    } finally {
      if (handle !== null) fs.closeSync(handle);
    }
  };
  for (const entry of fs.readdirSync(PLAN.key.processes)) {
    if (!/^\d+$/.test(entry)) continue;
    processes++;
    await read(`${PLAN.key.processes}/${entry}/environ`);
    await read(`${PLAN.key.processes}/${entry}/cmdline`);
  }
  const walk = async (folder, depth) => {
    let entries = [];
    try {
      entries = fs.readdirSync(folder, { withFileTypes: true });
    } catch (error) {
      missed(error);
    }
    for (const entry of entries) {
      const full = path.join(folder, entry.name);
      if (full === PLAN.key.skip) continue;
      if (isOver() || (entry.isDirectory() && depth >= PLAN.key.depth)) {
        isWhole = false;
        continue;
      }
      if (entry.isDirectory()) await walk(full, depth + 1);
      if (entry.isFile()) await read(full);
    }
  };
  for (const folder of PLAN.key.folders) await walk(folder, 0);
  say("key", { hits: [...hits], files, processes, isWhole, s: elapsed(start) });
}

Promise.all([
  askModel(),
  tryName(),
  tryAddress("address", 443, PLAN.servername),
  tryAddress("bare", 443, ""),
  tryAddress("port", PLAN.port, null),
  (async () => PLAN.key && findKey())(),
]).then(() => process.exit(0));
