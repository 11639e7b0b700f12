//! Dockerfiles as projects have them: of many languages, plain and elaborate, well kept and not; the
//! same for the same number.

use crate::generate::Dice;

/// A kind of project: its images, how it gets what it needs, how it is made and how it runs.
struct Kind {
    build: [&'static str; 2],
    run: [&'static str; 2],
    fetch: [&'static str; 3],
    make: [&'static str; 3],
    start: [&'static str; 3],
    cache: &'static str,
}

const KINDS: [Kind; 8] = [
    Kind {
        build: ["node:20-alpine", "node:${NODE_VERSION:-20}-bookworm-slim"],
        run: ["nginx:1.27-alpine", "gcr.io/distroless/nodejs20-debian12"],
        fetch: [
            "npm ci",
            "npm ci --omit=dev && npm cache clean --force",
            "corepack enable; yarn install",
        ],
        make: ["npm run build", "npx tsc -p . --outDir dist", "yarn build && rm -rf node_modules"],
        start: ["[\"node\", \"server.js\"]", "npm start", "[ \"nginx\", \"-g\", \"daemon off;\" ]"],
        cache: "/root/.npm",
    },
    Kind {
        build: ["golang:1.23", "golang:${GO}-alpine"],
        run: ["scratch", "alpine:3.20"],
        fetch: [
            "go mod download",
            "go mod download -x && go mod verify",
            "apk add --no-cache git make",
        ],
        make: [
            "CGO_ENABLED=0 go build -ldflags=\"-s -w -X main.version=$VERSION\" -o /out/app ./cmd/app",
            "go test ./... && go install ./...",
            "make build GOOS=${TARGETOS} GOARCH=${TARGETARCH}",
        ],
        start: ["[\"/app\"]", "/app --listen :8080", "[\"/usr/bin/app\", \"serve\"]"],
        cache: "/go/pkg/mod",
    },
    Kind {
        build: ["python:3.12-slim", "python:3.12-slim AS deps"],
        run: ["python:3.12-slim", "python:3.12-alpine"],
        fetch: [
            "pip install --no-cache-dir -r requirements.txt",
            "apt-get update && apt-get install -y --no-install-recommends gcc libpq-dev && rm -rf /var/lib/apt/lists/*",
            "pip install 'poetry==1.8.*' && poetry config virtualenvs.create false",
        ],
        make: [
            "python -m compileall -q .",
            "python manage.py collectstatic --noinput",
            "pip wheel -w /wheels .",
        ],
        start: [
            "[\"gunicorn\", \"-b\", \"0.0.0.0:8000\", \"app.wsgi\"]",
            "python manage.py runserver 0.0.0.0:$PORT",
            "[\"python\", \"-m\", \"app\"]",
        ],
        cache: "/root/.cache/pip",
    },
    Kind {
        build: ["rust:1.83", "rust:1.83-alpine"],
        run: ["debian:bookworm-slim", "gcr.io/distroless/cc-debian12:nonroot"],
        fetch: [
            "cargo fetch --locked",
            "rustup target add x86_64-unknown-linux-musl",
            "apk add musl-dev",
        ],
        make: [
            "cargo build --release --locked",
            "cargo build --release && strip target/release/app",
            "cargo install --path . --root /out",
        ],
        start: [
            "[\"app\"]",
            "exec app \"$@\"",
            "[\"/out/bin/app\", \"--config\", \"/etc/app.toml\"]",
        ],
        cache: "/usr/local/cargo/registry",
    },
    Kind {
        build: ["maven:3.9-eclipse-temurin-21", "gradle:8-jdk21"],
        run: ["eclipse-temurin:21-jre", "eclipse-temurin:21-jre-alpine"],
        fetch: [
            "mvn -B dependency:go-offline",
            "gradle --no-daemon dependencies || true",
            "mvn -q -B verify",
        ],
        make: [
            "mvn -B package -DskipTests",
            "gradle --no-daemon bootJar",
            "jlink --output /jre --add-modules java.base",
        ],
        start: [
            "[\"java\", \"-jar\", \"/app.jar\"]",
            "java $JAVA_OPTS -jar /app.jar",
            "[\"sh\", \"-c\", \"exec java $JAVA_OPTS -jar /app.jar\"]",
        ],
        cache: "/root/.m2",
    },
    Kind {
        build: ["ruby:3.3-slim", "php:8.3-fpm-alpine"],
        run: ["ruby:3.3-slim", "php:8.3-fpm-alpine"],
        fetch: [
            "bundle install --jobs 4",
            "docker-php-ext-install pdo_mysql opcache",
            "gem install bundler -v '~> 2.5'",
        ],
        make: [
            "bundle exec rake assets:precompile",
            "composer install --no-dev -o",
            "SECRET_KEY_BASE=1 ./bin/rails assets:precompile",
        ],
        start: [
            "[\"bundle\", \"exec\", \"puma\"]",
            "php-fpm -F",
            "[\"./bin/rails\", \"server\", \"-b\", \"0.0.0.0\"]",
        ],
        cache: "/usr/local/bundle/cache",
    },
    Kind {
        build: ["mcr.microsoft.com/dotnet/sdk:8.0", "mcr.microsoft.com/dotnet/sdk:8.0-alpine"],
        run: ["mcr.microsoft.com/dotnet/aspnet:8.0", "mcr.microsoft.com/dotnet/runtime-deps:8.0"],
        fetch: [
            "dotnet restore \"src/App.csproj\"",
            "dotnet tool restore",
            "dotnet restore --use-lock-file",
        ],
        make: [
            "dotnet publish -c Release -o /out --no-restore",
            "dotnet test",
            "dotnet build -c $CONFIGURATION",
        ],
        start: ["[\"dotnet\", \"App.dll\"]", "dotnet App.dll --urls http://+:$PORT", "[\"./App\"]"],
        cache: "/root/.nuget/packages",
    },
    Kind {
        build: [
            "debian:bookworm",
            "ubuntu:24.04@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ],
        run: ["debian:bookworm-slim", "busybox:1.36-musl"],
        fetch: [
            "apt-get update -qq && apt-get install -yqq --no-install-recommends build-essential cmake && apt-get clean",
            "set -eux; curl -fsSL https://example.com/x.tgz | tar -xz -C /opt",
            "dpkg --add-architecture arm64 && apt update",
        ],
        make: [
            "cmake -S . -B build && cmake --build build -j\"$(nproc)\"",
            "./configure --prefix=/usr && make install",
            "make -j4 DESTDIR=/out",
        ],
        start: [
            "[\"/usr/bin/tini\", \"--\", \"app\"]",
            "app; sleep infinity",
            "[ \"app\" , \"-v\" ]",
        ],
        cache: "/var/cache/apt",
    },
];

const HEADS: [&str; 6] = [
    "",
    "# syntax=docker/dockerfile:1\n",
    "# syntax=docker/dockerfile:1.7-labs\n\n# The application.\n",
    "# escape=\\\n# Built by CI: do not edit.\n",
    "\n\n# build me: docker build -t app .\n",
    "#!/usr/bin/env -S docker build . -f\n# syntax = docker/dockerfile:1 \n",
];

/// Text with the dice's choices in it.
struct Page<'a> {
    dice: &'a mut Dice,
    text: String,
    lower: bool,
}

impl Page<'_> {
    fn line(&mut self, keyword: &str, rest: &str) {
        let keyword = if self.lower { keyword.to_lowercase() } else { keyword.to_owned() };
        self.text.push_str(&format!("{keyword} {rest}\n"));
    }

    fn maybe(&mut self, keyword: &str, rests: &[&str]) {
        if self.dice.below(2) == 0 {
            let rest = self.dice.pick(rests).to_owned();
            self.line(keyword, &rest);
        }
    }

    fn pause(&mut self) {
        let pause =
            self.dice.pick(&["", "\n", "\n", "\n# ---- next ----\n", "   # indented\n", "\t\n"]);
        self.text.push_str(pause);
    }

    /// A command in one of the ways in which people write them.
    fn run(&mut self, command: &str, cache: &str) {
        let steps: Vec<&str> = command.split(" && ").collect();
        let text = match self.dice.below(7) {
            0 => steps.join(" \\\n    && "),
            1 => format!("set -ex; \\\n\t{}", steps.join("; \\\n\t")),
            2 => format!("--mount=type=cache,target={cache} {command}"),
            3 => format!(
                "--mount=type=bind,source=.,target=/src,rw \\\n  --mount=type=cache,id=c,sharing=locked,target={cache} \\\n  {command}"
            ),
            4 => format!("<<EOF\nset -e\n{}\nEOF", steps.join("\n")),
            5 => format!("{} \\\n# and then\n    && true", steps.join(" && \\\n    ")),
            _ => command.to_owned(),
        };
        self.line("RUN", &text);
    }

    fn build(&mut self, kind: &Kind) {
        let image = self.dice.pick(&kind.build).to_owned();
        let platform = self.dice.pick(&["", "", "--platform=$BUILDPLATFORM "]);
        let name = if image.contains(" AS ") {
            ""
        } else {
            self.dice.pick(&[" AS build", " as build", " AS builder"])
        };
        self.line("FROM", &format!("{platform}{image}{name}"));
        self.maybe(
            "ARG",
            &["VERSION=dev", "VERSION", "TARGETOS TARGETARCH", "GIT_SHA=\"unknown\" BUILD_DATE"],
        );
        self.maybe("WORKDIR", &["/src", "/app", "/usr/src/app/", "\"/work dir\""]);
        self.maybe(
            "ENV",
            &[
                "CI=true",
                "DEBIAN_FRONTEND noninteractive",
                "PATH=\"/opt/bin:$PATH\" \\\n    LANG=C.UTF-8",
                "A='b c' D=e\\ f",
            ],
        );
        self.maybe(
            "COPY",
            &[
                "package*.json ./",
                "go.mod go.sum ./",
                "[\"Cargo.toml\", \"Cargo.lock\", \"./\"]",
                "--link pom.xml .",
            ],
        );
        let fetch = self.dice.pick(&kind.fetch).to_owned();
        self.run(&fetch, kind.cache);
        self.maybe(
            "COPY",
            &[". .", "--chown=1000:1000 . /src", "--exclude=*.md . .", "src/ ./src/"],
        );
        self.maybe("ADD", &["https://example.com/a.tar.gz /opt/", "--checksum=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 https://example.com/x /x", "rootfs.tar.xz /"]);
        let make = self.dice.pick(&kind.make).to_owned();
        self.run(&make, kind.cache);
    }

    fn result(&mut self, kind: &Kind) {
        let image = self.dice.pick(&kind.run).to_owned();
        self.line("FROM", &image);
        self.maybe("LABEL", &["org.opencontainers.image.source=\"https://example.com/app\" \\\n      org.opencontainers.image.licenses=MIT", "maintainer=\"Ops <ops@example.com>\"", "version ${VERSION}"]);
        self.maybe("MAINTAINER", &["Ops <ops@example.com>"]);
        self.line("COPY", "--from=build /out /usr/bin/");
        self.maybe(
            "COPY",
            &[
                "<<EOF /etc/app.conf\nlisten = 8080\nname = \"${NAME:-app}\"\nEOF",
                "docker-entrypoint.sh /",
                "--chmod=755 start.sh /start.sh",
            ],
        );
        self.maybe(
            "RUN",
            &[
                "adduser -D -u 1000 app && mkdir -p /data",
                "--network=none true",
                "[\"/bin/sh\", \"-c\", \"chown app /data\"]",
            ],
        );
        self.maybe("EXPOSE", &["8080", "80 443/tcp 53/udp", "$PORT"]);
        self.maybe("VOLUME", &["/data", "[\"/data\", \"/logs\"]"]);
        self.maybe("USER", &["app", "1000:1000", "nonroot:nonroot"]);
        self.maybe("STOPSIGNAL", &["SIGTERM", "9"]);
        self.maybe("SHELL", &["[\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]"]);
        self.maybe(
            "HEALTHCHECK",
            &[
                "--interval=30s --timeout=3s CMD curl -f http://localhost:8080/healthz || exit 1",
                "NONE",
                "--retries=5 \\\n  CMD [\"app\", \"health\"]",
            ],
        );
        self.maybe("ONBUILD", &["COPY . /app", "RUN make", "ARG VERSION"]);
        self.maybe(
            "ENTRYPOINT",
            &["[\"/docker-entrypoint.sh\"]", "[\"tini\", \"--\"]", "exec /start.sh"],
        );
        let start = self.dice.pick(&kind.start).to_owned();
        self.line("CMD", &start);
    }
}

/// The project of this number.
pub(crate) fn file(number: u64) -> String {
    let dice = &mut Dice::new(number.wrapping_mul(7919) + 17);
    let head = dice.pick(&HEADS).to_owned();
    let lower = dice.below(9) == 0;
    let windows = dice.below(12) == 0;
    let kind = &KINDS[dice.below(KINDS.len())];
    let mut page = Page { dice, text: head, lower };
    if page.dice.below(3) == 0 {
        page.line("ARG", "NODE_VERSION=20");
        page.line("ARG", "GO=1.23");
    }
    page.build(kind);
    page.pause();
    if page.dice.below(3) == 0 {
        page.line("FROM", "build AS test");
        page.run("true", kind.cache);
        page.pause();
    }
    page.result(kind);
    if windows { page.text.replace('\n', "\r\n") } else { page.text }
}
