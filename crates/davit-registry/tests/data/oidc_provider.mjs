// An OpenID provider on loopback that asks no questions: it logs in whom it is told to.
//
//   node oidc_provider.mjs REDIRECT      prints its issuer
//   POST /control/as?who=SUBJECT&name=NAME   who logs in next
//   POST /control/rotate                     new keys instead of the old
//   POST /control/mint                       signs the claims of the body
import http from 'node:http';
import { randomUUID } from 'node:crypto';
import * as jose from 'jose';
import * as oidc from 'oidc-provider';

const Provider = oidc.Provider ?? oidc.default;
const names = new Map();
let who, provider, key, kid;

const server = http.createServer(async (request, response) => {
  try {
    await answer(request, response);
  } catch (error) {
    response.statusCode = 500;
    response.end(String(error));
  }
});

async function answer(request, response) {
  const url = new URL(request.url, 'http://127.0.0.1');
  if (url.pathname === '/control/as') {
    who = url.searchParams.get('who');
    names.set(who, url.searchParams.get('name'));
    response.end('ok');
  } else if (url.pathname === '/control/rotate') {
    await rotate();
    response.end('ok');
  } else if (url.pathname === '/control/mint') {
    let body = '';
    for await (const piece of request) body += piece;
    const token = new jose.SignJWT(JSON.parse(body)).setProtectedHeader({ alg: 'ES256', kid });
    response.end(await token.sign(key));
  } else if (url.pathname.startsWith('/interaction/')) {
    await provider.interactionFinished(request, response, { login: { accountId: who } });
  } else {
    await provider.callback()(request, response);
  }
}

const issuer = () => `http://127.0.0.1:${server.address().port}`;

async function rotate() {
  const pair = await jose.generateKeyPair('ES256', { extractable: true });
  key = pair.privateKey;
  kid = randomUUID();
  const jwk = { ...(await jose.exportJWK(key)), kid, alg: 'ES256', use: 'sig' };
  provider = new Provider(issuer(), {
    clients: [{
      client_id: 'davit',
      client_secret: 'a+b/c %:d',
      redirect_uris: [process.argv[2]],
      id_token_signed_response_alg: 'ES256',
    }],
    jwks: { keys: [jwk] },
    cookies: { keys: ['test'] },
    claims: { openid: ['sub'], profile: ['preferred_username'] },
    conformIdTokenClaims: false,
    enabledJWA: { idTokenSigningAlgValues: ['ES256'] },
    features: { devInteractions: { enabled: false } },
    interactions: { url: (context, interaction) => `/interaction/${interaction.uid}` },
    pkce: { required: () => true },
    findAccount: (context, id) => ({
      accountId: id,
      claims: () => ({ sub: id, preferred_username: names.get(id) ?? undefined }),
    }),
    loadExistingGrant: async (context) => {
      const grant = new context.oidc.provider.Grant({
        clientId: context.oidc.client.clientId,
        accountId: context.oidc.session.accountId,
      });
      grant.addOIDCScope('openid profile');
      await grant.save();
      return grant;
    },
  });
}

server.listen(0, '127.0.0.1', async () => {
  await rotate();
  console.log(issuer());
});
// Ends with the test.
process.stdin.on('end', () => process.exit(0)).resume();
