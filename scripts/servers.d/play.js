// A server on Node's ws: play.js PORT PLAN. It does what play.py does.
'use strict';
const fs = require('fs');
const { WebSocketServer } = require(process.env.NODE_WS);

const PLAN = JSON.parse(fs.readFileSync(process.argv[3], 'ascii'));
const PONG_MS = 10000;
const STREAM_EVERY_MS = 2;
const played = new Map();

function pong(socket, payload) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('no pong')), PONG_MS);
    socket.once('pong', (data) => {
      clearTimeout(timer);
      if (data.equals(payload)) resolve();
      else reject(new Error('another pong'));
    });
    socket.ping(payload);
  });
}

async function play(socket, who) {
  const count = played.get(who) || 0;
  played.set(who, count + 1);
  for (const [kind, encoded] of PLAN.steps) {
    const frames = encoded.map((frame) => Buffer.from(frame, 'base64'));
    if (kind === 'ping') {
      try {
        await pong(socket, frames[0]);
      } catch {
        socket.close(4999);
        return;
      }
    } else {
      frames.forEach((frame, n) => {
        socket.send(frame, { binary: kind === 'binary', fin: n === frames.length - 1 });
      });
    }
  }
  socket.close(PLAN.codes[count % PLAN.codes.length], 'bye');
}

function stream(socket) {
  let number = 0;
  const timer = setInterval(() => {
    socket.send(`{"n":${number},"pad":"${'x'.repeat(number * 37 % 200)}"}\n`);
    number += 1;
  }, STREAM_EVERY_MS);
  socket.on('close', () => clearInterval(timer));
}

new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2]) })
  .on('connection', (socket, request) => {
    socket.on('error', () => {}); // the recorder has what it wanted, or the proxy ended it
    if (request.url.startsWith('/play')) play(socket, request.url);
    else if (request.url === '/stream') stream(socket);
    else socket.send('one');
  });
