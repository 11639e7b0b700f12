CREATE TABLE access_grant (
    id bigint NOT NULL,
    subject_kind text NOT NULL,
    subject_id bigint NOT NULL,
    repo_glob text NOT NULL,
    role text NOT NULL,
    condition text,
    created_at bigint NOT NULL,
    CONSTRAINT access_grant_role_check CHECK ((role = ANY (ARRAY['pull'::text, 'push'::text, 'maintain'::text, 'admin'::text]))),
    CONSTRAINT access_grant_subject_kind_check CHECK ((subject_kind = ANY (ARRAY['account'::text, 'team'::text, 'org'::text, 'everyone'::text])))
);
ALTER TABLE access_grant ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME access_grant_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE account (
    id bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    is_admin bigint DEFAULT 0 NOT NULL,
    email text,
    password text,
    owner_id bigint,
    epoch bigint DEFAULT 0 NOT NULL,
    quota_bytes bigint,
    used_bytes bigint DEFAULT 0 NOT NULL,
    created_at bigint NOT NULL,
    CONSTRAINT account_kind_check CHECK ((kind = ANY (ARRAY['user'::text, 'org'::text, 'robot'::text]))),
    CONSTRAINT account_state_check CHECK ((state = ANY (ARRAY['active'::text, 'invited'::text, 'disabled'::text])))
);
ALTER TABLE account ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME account_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE audit (
    id bigint NOT NULL,
    at bigint NOT NULL,
    actor_id bigint,
    actor text NOT NULL,
    action text NOT NULL,
    object text NOT NULL,
    detail text DEFAULT '{}'::text NOT NULL,
    address text,
    previous bytea NOT NULL,
    entry bytea NOT NULL
);
ALTER TABLE audit ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE blob (
    digest text NOT NULL COLLATE pg_catalog."C",
    size_bytes bigint NOT NULL,
    store_key text NOT NULL COLLATE pg_catalog."C",
    state text DEFAULT 'live'::text NOT NULL,
    created_at bigint NOT NULL,
    CONSTRAINT blob_state_check CHECK ((state = ANY (ARRAY['live'::text, 'suspect'::text])))
);
CREATE TABLE event_outbox (
    id bigint NOT NULL,
    kind text NOT NULL,
    repo_id bigint,
    payload text NOT NULL,
    created_at bigint NOT NULL
);
ALTER TABLE event_outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME event_outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE gc_queue (
    repo_id bigint NOT NULL,
    digest text NOT NULL COLLATE pg_catalog."C",
    after_ms bigint NOT NULL
);
CREATE TABLE identity (
    issuer text NOT NULL,
    subject text NOT NULL,
    account_id bigint NOT NULL,
    created_at bigint NOT NULL
);
CREATE TABLE job (
    id bigint NOT NULL,
    kind text NOT NULL,
    payload text NOT NULL,
    state text NOT NULL,
    run_after bigint NOT NULL,
    attempts bigint DEFAULT 0 NOT NULL,
    locked_until bigint DEFAULT 0 NOT NULL,
    created_at bigint NOT NULL,
    finished_at bigint,
    result text,
    CONSTRAINT job_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'running'::text, 'done'::text, 'failed'::text, 'cancelled'::text])))
);
ALTER TABLE job ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME job_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE login_failure (
    subject text NOT NULL,
    failures bigint NOT NULL,
    blocked_until bigint NOT NULL,
    last_at bigint NOT NULL
);
CREATE TABLE manifest (
    id bigint NOT NULL,
    repo_id bigint NOT NULL,
    digest text NOT NULL COLLATE pg_catalog."C",
    media_type text NOT NULL,
    artifact_type text,
    subject text COLLATE pg_catalog."C",
    body bytea NOT NULL,
    size_bytes bigint NOT NULL,
    pushed_at bigint NOT NULL,
    pushed_by bigint,
    pulled_at bigint,
    lease_until bigint NOT NULL
);
CREATE TABLE manifest_blob (
    manifest_id bigint NOT NULL,
    "position" bigint NOT NULL,
    repo_id bigint NOT NULL,
    digest text NOT NULL COLLATE pg_catalog."C",
    role text NOT NULL,
    linked text COLLATE pg_catalog."C",
    CONSTRAINT manifest_blob_role_check CHECK ((role = ANY (ARRAY['config'::text, 'layer'::text])))
);
CREATE TABLE manifest_child (
    parent_id bigint NOT NULL,
    "position" bigint NOT NULL,
    repo_id bigint NOT NULL,
    digest text NOT NULL COLLATE pg_catalog."C",
    child_id bigint,
    platform text
);
ALTER TABLE manifest ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME manifest_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE org_member (
    org_id bigint NOT NULL,
    account_id bigint NOT NULL,
    role text NOT NULL,
    CONSTRAINT org_member_role_check CHECK ((role = ANY (ARRAY['member'::text, 'owner'::text])))
);
CREATE TABLE repo (
    id bigint NOT NULL,
    path text NOT NULL COLLATE pg_catalog."C",
    owner_id bigint,
    visibility text DEFAULT 'private'::text NOT NULL,
    kind text DEFAULT 'hosted'::text NOT NULL,
    sparse bigint,
    description text DEFAULT ''::text NOT NULL,
    readme text DEFAULT ''::text NOT NULL,
    settings text DEFAULT '{}'::text NOT NULL,
    created_at bigint NOT NULL,
    CONSTRAINT repo_kind_check CHECK ((kind = ANY (ARRAY['hosted'::text, 'proxy'::text]))),
    CONSTRAINT repo_visibility_check CHECK ((visibility = ANY (ARRAY['private'::text, 'public'::text])))
);
CREATE TABLE repo_blob (
    repo_id bigint NOT NULL,
    digest text NOT NULL COLLATE pg_catalog."C",
    lease_until bigint NOT NULL,
    created_at bigint NOT NULL
);
ALTER TABLE repo ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME repo_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE schema_version (
    version bigint NOT NULL
);
CREATE TABLE setting (
    name text NOT NULL,
    value text NOT NULL
);
CREATE TABLE signing_key (
    id text NOT NULL,
    public_key bytea NOT NULL,
    created_at bigint NOT NULL
);
CREATE TABLE tag (
    repo_id bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    manifest_id bigint NOT NULL,
    version bigint NOT NULL,
    updated_at bigint NOT NULL,
    updated_by bigint
);
CREATE TABLE tag_event (
    id bigint NOT NULL,
    repo_id bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    old_digest text COLLATE pg_catalog."C",
    new_digest text COLLATE pg_catalog."C",
    at bigint NOT NULL,
    by_id bigint
);
ALTER TABLE tag_event ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME tag_event_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE team (
    id bigint NOT NULL,
    org_id bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    description text DEFAULT ''::text NOT NULL
);
ALTER TABLE team ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME team_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE team_member (
    team_id bigint NOT NULL,
    account_id bigint NOT NULL
);
CREATE TABLE token (
    id bigint NOT NULL,
    account_id bigint NOT NULL,
    kind text NOT NULL,
    name text DEFAULT ''::text NOT NULL,
    sha256 bytea NOT NULL,
    scopes text DEFAULT '[]'::text NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint,
    last_used_at bigint,
    CONSTRAINT token_kind_check CHECK ((kind = ANY (ARRAY['pat'::text, 'robot'::text, 'refresh'::text, 'session'::text, 'invite'::text])))
);
ALTER TABLE token ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME token_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE trash (
    store_key text NOT NULL COLLATE pg_catalog."C",
    size_bytes bigint NOT NULL,
    not_before bigint NOT NULL,
    attempts bigint DEFAULT 0 NOT NULL
);
CREATE TABLE upload (
    id text NOT NULL,
    repo_id bigint NOT NULL,
    account_id bigint,
    offset_bytes bigint NOT NULL,
    algorithm text NOT NULL,
    hash_state bytea NOT NULL,
    store_ref text NOT NULL,
    parts text DEFAULT '[]'::text NOT NULL,
    tail bytea,
    version bigint NOT NULL,
    busy_until bigint NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL
);
INSERT INTO access_grant OVERRIDING SYSTEM VALUE VALUES (1, 'account', 3, 'acme/**', 'push', NULL, 1795377628218);
INSERT INTO account OVERRIDING SYSTEM VALUE VALUES (3, 'acme+ci', 'robot', 'active', 0, NULL, NULL, 2, 0, NULL, 0, 1795377628191);
INSERT INTO account OVERRIDING SYSTEM VALUE VALUES (1, 'alice', 'user', 'active', 0, NULL, '$argon2id$v=19$m=12288,t=3,p=1$ybMAiJdLlGPoDu5RlbgluA$GAmvazZHjRC5+OfzB5TAMs4xV/k/mxKGTS1hsO1MTms', NULL, 0, NULL, 7, 1795377628146);
INSERT INTO account OVERRIDING SYSTEM VALUE VALUES (2, 'acme', 'org', 'active', 0, NULL, NULL, NULL, 0, NULL, 7, 1795377628169);
INSERT INTO audit OVERRIDING SYSTEM VALUE VALUES (1, 1795377628146, NULL, 'operator', 'account.add', 'alice', '{"kind":"user","admin":false}', NULL, '\x0000000000000000000000000000000000000000000000000000000000000000', '\x741f3e54889a3ec29a50891fe0fcf8da18f778b98e04b87d6c28ad586a8da7fc');
INSERT INTO audit OVERRIDING SYSTEM VALUE VALUES (2, 1795377628169, NULL, 'operator', 'account.add', 'acme', '{"kind":"org","admin":false}', NULL, '\x741f3e54889a3ec29a50891fe0fcf8da18f778b98e04b87d6c28ad586a8da7fc', '\xa44d6bbc60ab62c68152cfbb2e2b8c84cae22ccef46e8303c161f7689d3b4d79');
INSERT INTO audit OVERRIDING SYSTEM VALUE VALUES (3, 1795377628171, NULL, 'operator', 'org.member', 'acme', '{"account":"alice","role":"owner"}', NULL, '\xa44d6bbc60ab62c68152cfbb2e2b8c84cae22ccef46e8303c161f7689d3b4d79', '\x4cf045914b9df62ed1ab0bb512442e9036f77092d088a278771edfd9d51e1c21');
INSERT INTO audit OVERRIDING SYSTEM VALUE VALUES (4, 1795377628191, NULL, 'operator', 'account.add', 'acme+ci', '{"kind":"robot","admin":false}', NULL, '\x4cf045914b9df62ed1ab0bb512442e9036f77092d088a278771edfd9d51e1c21', '\xda904dc8950707a85e4c306c283a51b30b10ef18add9782d7aa467a877a79eeb');
INSERT INTO audit OVERRIDING SYSTEM VALUE VALUES (5, 1795377628194, NULL, 'operator', 'token.add', 'acme+ci', '{"id":1,"kind":"robot","name":"","scopes":["repository:acme/**:create,pull"]}', NULL, '\xda904dc8950707a85e4c306c283a51b30b10ef18add9782d7aa467a877a79eeb', '\xb0f92c94ff63ea5dae8d4fcef8036809bb4171b11ec34d01817263168145ce5c');
INSERT INTO audit OVERRIDING SYSTEM VALUE VALUES (6, 1795377628218, NULL, 'operator', 'grant.set', 'acme/**', '{"subject":"acme+ci","role":"push","adding_only":false}', NULL, '\xb0f92c94ff63ea5dae8d4fcef8036809bb4171b11ec34d01817263168145ce5c', '\x9505d9d7d67b93535da1d89256f6715f4cbd0aefeb1f0ca3b50d6b71f356ea58');
INSERT INTO audit OVERRIDING SYSTEM VALUE VALUES (7, 1795377628286, NULL, 'operator', 'key.add', '63691e033650e2a4', '{}', NULL, '\x9505d9d7d67b93535da1d89256f6715f4cbd0aefeb1f0ca3b50d6b71f356ea58', '\x21ba4ff59e287a57de11cd7682c359b836b601b5c1227db2487a3365af1ef3be');
INSERT INTO blob VALUES ('sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a', 2, 'blobs/sha256/44/44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a.01a204d8-90e7-76aa-819e-be369c716c8e', 'live', 1795377631479);
INSERT INTO blob VALUES ('sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85', 5, 'blobs/sha256/da/dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85.01a204d8-9100-74a4-af01-75625744c3ee', 'live', 1795377631504);
INSERT INTO manifest OVERRIDING SYSTEM VALUE VALUES (1, 1, 'sha256:e245598d28a38812808ab7ba3a7c24834160345d9f0e36b368b93478ae588471', 'application/vnd.oci.image.manifest.v1+json', 'application/vnd.oci.image.config.v1+json', NULL, '\x7b22736368656d6156657273696f6e223a20322c20226d6564696154797065223a20226170706c69636174696f6e2f766e642e6f63692e696d6167652e6d616e69666573742e76312b6a736f6e222c2022636f6e666967223a207b226d6564696154797065223a20226170706c69636174696f6e2f766e642e6f63692e696d6167652e636f6e6669672e76312b6a736f6e222c2022646967657374223a20227368613235363a34343133366661333535623336373861313134366164313666376538363439653934666234666332316665373765383331306330363066363163616166663861222c202273697a65223a20327d2c20226c6179657273223a205b7b226d6564696154797065223a20226170706c69636174696f6e2f766e642e6f63692e696d6167652e6c617965722e76312e746172222c2022646967657374223a20227368613235363a64616331643763666139353032313736343834396664313032353234653134313438386335653361393066383631646262356131326439616338353834663835222c202273697a65223a20357d5d7d', 409, 1795377631516, NULL, NULL, 1795464031516);
INSERT INTO manifest OVERRIDING SYSTEM VALUE VALUES (2, 1, 'sha256:850376b5634d8abe33f91d72867d9b74e3566537bc42319971e3c90874e1a43e', 'application/vnd.oci.image.index.v1+json', NULL, NULL, '\x7b22736368656d6156657273696f6e223a20322c20226d6564696154797065223a20226170706c69636174696f6e2f766e642e6f63692e696d6167652e696e6465782e76312b6a736f6e222c20226d616e696665737473223a205b7b226d6564696154797065223a20226170706c69636174696f6e2f766e642e6f63692e696d6167652e6d616e69666573742e76312b6a736f6e222c2022646967657374223a20227368613235363a65323435353938643238613338383132383038616237626133613763323438333431363033343564396630653336623336386239333437386165353838343731222c202273697a65223a203430397d5d7d', 250, 1795377631530, NULL, NULL, 1795464031530);
INSERT INTO manifest OVERRIDING SYSTEM VALUE VALUES (3, 2, 'sha256:e245598d28a38812808ab7ba3a7c24834160345d9f0e36b368b93478ae588471', 'application/vnd.oci.image.manifest.v1+json', 'application/vnd.oci.image.config.v1+json', NULL, '\x7b22736368656d6156657273696f6e223a20322c20226d6564696154797065223a20226170706c69636174696f6e2f766e642e6f63692e696d6167652e6d616e69666573742e76312b6a736f6e222c2022636f6e666967223a207b226d6564696154797065223a20226170706c69636174696f6e2f766e642e6f63692e696d6167652e636f6e6669672e76312b6a736f6e222c2022646967657374223a20227368613235363a34343133366661333535623336373861313134366164313666376538363439653934666234666332316665373765383331306330363066363163616166663861222c202273697a65223a20327d2c20226c6179657273223a205b7b226d6564696154797065223a20226170706c69636174696f6e2f766e642e6f63692e696d6167652e6c617965722e76312e746172222c2022646967657374223a20227368613235363a64616331643763666139353032313736343834396664313032353234653134313438386335653361393066383631646262356131326439616338353834663835222c202273697a65223a20357d5d7d', 409, 1795377631621, NULL, NULL, 1795464031621);
INSERT INTO manifest OVERRIDING SYSTEM VALUE VALUES (4, 2, 'sha256:850376b5634d8abe33f91d72867d9b74e3566537bc42319971e3c90874e1a43e', 'application/vnd.oci.image.index.v1+json', NULL, NULL, '\x7b22736368656d6156657273696f6e223a20322c20226d6564696154797065223a20226170706c69636174696f6e2f766e642e6f63692e696d6167652e696e6465782e76312b6a736f6e222c20226d616e696665737473223a205b7b226d6564696154797065223a20226170706c69636174696f6e2f766e642e6f63692e696d6167652e6d616e69666573742e76312b6a736f6e222c2022646967657374223a20227368613235363a65323435353938643238613338383132383038616237626133613763323438333431363033343564396630653336623336386239333437386165353838343731222c202273697a65223a203430397d5d7d', 250, 1795377631628, NULL, NULL, 1795464031628);
INSERT INTO manifest_blob VALUES (1, 0, 1, 'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a', 'config', 'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a');
INSERT INTO manifest_blob VALUES (1, 1, 1, 'sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85', 'layer', 'sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85');
INSERT INTO manifest_blob VALUES (3, 0, 2, 'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a', 'config', 'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a');
INSERT INTO manifest_blob VALUES (3, 1, 2, 'sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85', 'layer', 'sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85');
INSERT INTO manifest_child VALUES (2, 0, 1, 'sha256:e245598d28a38812808ab7ba3a7c24834160345d9f0e36b368b93478ae588471', 1, NULL);
INSERT INTO manifest_child VALUES (4, 0, 2, 'sha256:e245598d28a38812808ab7ba3a7c24834160345d9f0e36b368b93478ae588471', 3, NULL);
INSERT INTO org_member VALUES (2, 1, 'owner');
INSERT INTO repo OVERRIDING SYSTEM VALUE VALUES (1, 'alice/app', 1, 'private', 'hosted', NULL, '', '', '{}', 1795377631479);
INSERT INTO repo OVERRIDING SYSTEM VALUE VALUES (2, 'acme/web', 2, 'private', 'hosted', NULL, '', '', '{}', 1795377631579);
INSERT INTO repo_blob VALUES (1, 'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a', 1795464031479, 1795377631479);
INSERT INTO repo_blob VALUES (1, 'sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85', 1795464031504, 1795377631504);
INSERT INTO repo_blob VALUES (2, 'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a', 1795464031579, 1795377631579);
INSERT INTO repo_blob VALUES (2, 'sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85', 1795464031604, 1795377631604);
INSERT INTO schema_version VALUES (1);
INSERT INTO setting VALUES ('audit.head', '21ba4ff59e287a57de11cd7682c359b836b601b5c1227db2487a3365af1ef3be');
INSERT INTO signing_key VALUES ('63691e033650e2a4', '\x67f525103002f6e86e49cb554afe0f588711e4fc9599a63114b26b9f99063fc8', 1795377628000);
INSERT INTO tag VALUES (1, 'v1', 1, 1, 1795377631516, NULL);
INSERT INTO tag VALUES (1, 'all', 2, 1, 1795377631530, NULL);
INSERT INTO tag VALUES (2, 'v1', 3, 1, 1795377631621, NULL);
INSERT INTO tag VALUES (2, 'all', 4, 1, 1795377631628, NULL);
INSERT INTO tag_event OVERRIDING SYSTEM VALUE VALUES (1, 1, 'v1', NULL, 'sha256:e245598d28a38812808ab7ba3a7c24834160345d9f0e36b368b93478ae588471', 1795377631516, NULL);
INSERT INTO tag_event OVERRIDING SYSTEM VALUE VALUES (2, 1, 'all', NULL, 'sha256:850376b5634d8abe33f91d72867d9b74e3566537bc42319971e3c90874e1a43e', 1795377631530, NULL);
INSERT INTO tag_event OVERRIDING SYSTEM VALUE VALUES (3, 2, 'v1', NULL, 'sha256:e245598d28a38812808ab7ba3a7c24834160345d9f0e36b368b93478ae588471', 1795377631621, NULL);
INSERT INTO tag_event OVERRIDING SYSTEM VALUE VALUES (4, 2, 'all', NULL, 'sha256:850376b5634d8abe33f91d72867d9b74e3566537bc42319971e3c90874e1a43e', 1795377631628, NULL);
INSERT INTO token OVERRIDING SYSTEM VALUE VALUES (1, 3, 'robot', '', '\xf0ca8deac5cd704b80a46ea483035bcf35c51399fe0ef1b46add36b4323ce471', '["repository:acme/**:create,pull"]', 1795377628194, NULL, NULL);
INSERT INTO trash VALUES ('blobs/sha256/44/44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a.01a204d8-9153-71a0-b24c-96cc4af3a9b0', 2, 1795464031579, 0);
INSERT INTO trash VALUES ('blobs/sha256/da/dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85.01a204d8-9164-7759-bccf-89d88bcd5f40', 5, 1795464031604, 0);
INSERT INTO upload VALUES ('01a204d8-918e-73a6-be04-954a4c0c14d4', 1, NULL, 4, 'sha256', '\x67e6096a85ae67bb72f36e3c3af54fa57f520e518c68059babd9831f19cde05b00000000000000000468616c660000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000', '01a204d8-918e-73a6-be04-954a4c0c14d4', '[]', NULL, 1, 0, 1795377631631, 1795464031650);
SELECT pg_catalog.setval('access_grant_id_seq', 1, true);
SELECT pg_catalog.setval('account_id_seq', 3, true);
SELECT pg_catalog.setval('audit_id_seq', 7, true);
SELECT pg_catalog.setval('event_outbox_id_seq', 1, false);
SELECT pg_catalog.setval('job_id_seq', 1, false);
SELECT pg_catalog.setval('manifest_id_seq', 4, true);
SELECT pg_catalog.setval('repo_id_seq', 2, true);
SELECT pg_catalog.setval('tag_event_id_seq', 4, true);
SELECT pg_catalog.setval('team_id_seq', 1, false);
SELECT pg_catalog.setval('token_id_seq', 1, true);
ALTER TABLE ONLY access_grant
    ADD CONSTRAINT access_grant_pkey PRIMARY KEY (id);
ALTER TABLE ONLY access_grant
    ADD CONSTRAINT access_grant_subject_kind_subject_id_repo_glob_key UNIQUE (subject_kind, subject_id, repo_glob);
ALTER TABLE ONLY account
    ADD CONSTRAINT account_name_key UNIQUE (name);
ALTER TABLE ONLY account
    ADD CONSTRAINT account_pkey PRIMARY KEY (id);
ALTER TABLE ONLY audit
    ADD CONSTRAINT audit_entry_key UNIQUE (entry);
ALTER TABLE ONLY audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);
ALTER TABLE ONLY blob
    ADD CONSTRAINT blob_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY blob
    ADD CONSTRAINT blob_store_key_key UNIQUE (store_key);
ALTER TABLE ONLY event_outbox
    ADD CONSTRAINT event_outbox_pkey PRIMARY KEY (id);
ALTER TABLE ONLY gc_queue
    ADD CONSTRAINT gc_queue_pkey PRIMARY KEY (repo_id, digest);
ALTER TABLE ONLY identity
    ADD CONSTRAINT identity_pkey PRIMARY KEY (issuer, subject);
ALTER TABLE ONLY job
    ADD CONSTRAINT job_pkey PRIMARY KEY (id);
ALTER TABLE ONLY login_failure
    ADD CONSTRAINT login_failure_pkey PRIMARY KEY (subject);
ALTER TABLE ONLY manifest_blob
    ADD CONSTRAINT manifest_blob_pkey PRIMARY KEY (manifest_id, "position");
ALTER TABLE ONLY manifest_child
    ADD CONSTRAINT manifest_child_pkey PRIMARY KEY (parent_id, "position");
ALTER TABLE ONLY manifest
    ADD CONSTRAINT manifest_pkey PRIMARY KEY (id);
ALTER TABLE ONLY manifest
    ADD CONSTRAINT manifest_repo_id_digest_key UNIQUE (repo_id, digest);
ALTER TABLE ONLY org_member
    ADD CONSTRAINT org_member_pkey PRIMARY KEY (org_id, account_id);
ALTER TABLE ONLY repo_blob
    ADD CONSTRAINT repo_blob_pkey PRIMARY KEY (repo_id, digest);
ALTER TABLE ONLY repo
    ADD CONSTRAINT repo_path_key UNIQUE (path);
ALTER TABLE ONLY repo
    ADD CONSTRAINT repo_pkey PRIMARY KEY (id);
ALTER TABLE ONLY setting
    ADD CONSTRAINT setting_pkey PRIMARY KEY (name);
ALTER TABLE ONLY signing_key
    ADD CONSTRAINT signing_key_pkey PRIMARY KEY (id);
ALTER TABLE ONLY tag_event
    ADD CONSTRAINT tag_event_pkey PRIMARY KEY (id);
ALTER TABLE ONLY tag
    ADD CONSTRAINT tag_pkey PRIMARY KEY (repo_id, name);
ALTER TABLE ONLY team_member
    ADD CONSTRAINT team_member_pkey PRIMARY KEY (team_id, account_id);
ALTER TABLE ONLY team
    ADD CONSTRAINT team_org_id_name_key UNIQUE (org_id, name);
ALTER TABLE ONLY team
    ADD CONSTRAINT team_pkey PRIMARY KEY (id);
ALTER TABLE ONLY token
    ADD CONSTRAINT token_pkey PRIMARY KEY (id);
ALTER TABLE ONLY token
    ADD CONSTRAINT token_sha256_key UNIQUE (sha256);
ALTER TABLE ONLY trash
    ADD CONSTRAINT trash_pkey PRIMARY KEY (store_key);
ALTER TABLE ONLY upload
    ADD CONSTRAINT upload_pkey PRIMARY KEY (id);
CREATE INDEX account_owner ON account USING btree (owner_id);
CREATE INDEX gc_queue_after ON gc_queue USING btree (after_ms);
CREATE INDEX job_state ON job USING btree (state, run_after);
CREATE INDEX manifest_blob_digest ON manifest_blob USING btree (repo_id, digest);
CREATE INDEX manifest_blob_linked ON manifest_blob USING btree (repo_id, linked);
CREATE INDEX manifest_child_child ON manifest_child USING btree (child_id);
CREATE INDEX manifest_child_digest ON manifest_child USING btree (repo_id, digest);
CREATE INDEX manifest_subject ON manifest USING btree (repo_id, subject, digest) WHERE (subject IS NOT NULL);
CREATE INDEX org_member_account ON org_member USING btree (account_id);
CREATE INDEX repo_blob_digest ON repo_blob USING btree (digest);
CREATE INDEX repo_blob_lease ON repo_blob USING btree (lease_until);
CREATE INDEX repo_owner ON repo USING btree (owner_id);
CREATE INDEX tag_event_name ON tag_event USING btree (repo_id, name, id);
CREATE INDEX tag_event_old ON tag_event USING btree (repo_id, old_digest);
CREATE INDEX tag_manifest ON tag USING btree (manifest_id);
CREATE INDEX team_member_account ON team_member USING btree (account_id);
CREATE INDEX token_account ON token USING btree (account_id);
CREATE INDEX trash_not_before ON trash USING btree (not_before);
CREATE INDEX upload_account ON upload USING btree (account_id);
CREATE INDEX upload_expires ON upload USING btree (expires_at);
CREATE INDEX upload_repo ON upload USING btree (repo_id);
ALTER TABLE ONLY account
    ADD CONSTRAINT account_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES account(id) ON DELETE CASCADE;
ALTER TABLE ONLY event_outbox
    ADD CONSTRAINT event_outbox_repo_id_fkey FOREIGN KEY (repo_id) REFERENCES repo(id) ON DELETE CASCADE;
ALTER TABLE ONLY gc_queue
    ADD CONSTRAINT gc_queue_repo_id_fkey FOREIGN KEY (repo_id) REFERENCES repo(id) ON DELETE CASCADE;
ALTER TABLE ONLY identity
    ADD CONSTRAINT identity_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id) ON DELETE CASCADE;
ALTER TABLE ONLY manifest_blob
    ADD CONSTRAINT manifest_blob_manifest_id_fkey FOREIGN KEY (manifest_id) REFERENCES manifest(id) ON DELETE CASCADE;
ALTER TABLE ONLY manifest_blob
    ADD CONSTRAINT manifest_blob_repo_id_linked_fkey FOREIGN KEY (repo_id, linked) REFERENCES repo_blob(repo_id, digest);
ALTER TABLE ONLY manifest_child
    ADD CONSTRAINT manifest_child_child_id_fkey FOREIGN KEY (child_id) REFERENCES manifest(id);
ALTER TABLE ONLY manifest_child
    ADD CONSTRAINT manifest_child_parent_id_fkey FOREIGN KEY (parent_id) REFERENCES manifest(id) ON DELETE CASCADE;
ALTER TABLE ONLY manifest
    ADD CONSTRAINT manifest_pushed_by_fkey FOREIGN KEY (pushed_by) REFERENCES account(id) ON DELETE SET NULL;
ALTER TABLE ONLY manifest
    ADD CONSTRAINT manifest_repo_id_fkey FOREIGN KEY (repo_id) REFERENCES repo(id);
ALTER TABLE ONLY org_member
    ADD CONSTRAINT org_member_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id) ON DELETE CASCADE;
ALTER TABLE ONLY org_member
    ADD CONSTRAINT org_member_org_id_fkey FOREIGN KEY (org_id) REFERENCES account(id) ON DELETE CASCADE;
ALTER TABLE ONLY repo_blob
    ADD CONSTRAINT repo_blob_digest_fkey FOREIGN KEY (digest) REFERENCES blob(digest);
ALTER TABLE ONLY repo_blob
    ADD CONSTRAINT repo_blob_repo_id_fkey FOREIGN KEY (repo_id) REFERENCES repo(id);
ALTER TABLE ONLY repo
    ADD CONSTRAINT repo_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES account(id) ON DELETE SET NULL;
ALTER TABLE ONLY tag_event
    ADD CONSTRAINT tag_event_by_id_fkey FOREIGN KEY (by_id) REFERENCES account(id) ON DELETE SET NULL;
ALTER TABLE ONLY tag_event
    ADD CONSTRAINT tag_event_repo_id_fkey FOREIGN KEY (repo_id) REFERENCES repo(id);
ALTER TABLE ONLY tag
    ADD CONSTRAINT tag_manifest_id_fkey FOREIGN KEY (manifest_id) REFERENCES manifest(id);
ALTER TABLE ONLY tag
    ADD CONSTRAINT tag_repo_id_fkey FOREIGN KEY (repo_id) REFERENCES repo(id);
ALTER TABLE ONLY tag
    ADD CONSTRAINT tag_updated_by_fkey FOREIGN KEY (updated_by) REFERENCES account(id) ON DELETE SET NULL;
ALTER TABLE ONLY team_member
    ADD CONSTRAINT team_member_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id) ON DELETE CASCADE;
ALTER TABLE ONLY team_member
    ADD CONSTRAINT team_member_team_id_fkey FOREIGN KEY (team_id) REFERENCES team(id) ON DELETE CASCADE;
ALTER TABLE ONLY team
    ADD CONSTRAINT team_org_id_fkey FOREIGN KEY (org_id) REFERENCES account(id) ON DELETE CASCADE;
ALTER TABLE ONLY token
    ADD CONSTRAINT token_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id) ON DELETE CASCADE;
ALTER TABLE ONLY upload
    ADD CONSTRAINT upload_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id) ON DELETE CASCADE;
ALTER TABLE ONLY upload
    ADD CONSTRAINT upload_repo_id_fkey FOREIGN KEY (repo_id) REFERENCES repo(id);
