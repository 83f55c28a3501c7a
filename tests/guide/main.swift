// Runs the guide's steps for packs on Linux, with a plain download instead of a background session's:
//
//     guide SERVER DIRECTORY [--key BASE64] [--verify] PACK...
//
// Installs or updates each pack in DIRECTORY/PACK, and prints the number of archives.
import CryptoKit
import Foundation
#if canImport(FoundationNetworking)
import FoundationNetworking
#endif

var arguments = Array(CommandLine.arguments.dropFirst())
let server = Server(url: URL(string: arguments.removeFirst())!, credential: nil)
let directory = URL(fileURLWithPath: arguments.removeFirst())
var key: Curve25519.Signing.PublicKey?
if arguments.first == "--key" {
    key = try Curve25519.Signing.PublicKey(rawRepresentation: Data(base64Encoded: arguments[1])!)
    arguments.removeFirst(2)
}
let verifying = arguments.first == "--verify"
if verifying { arguments.removeFirst() }

for name in arguments {
    let pack = Pack(server: server, name: name, root: directory.appendingPathComponent(name), publicKey: key)
    var step = try await pack.check(verifying: verifying)
    var archives = 0
    while case let .download(request, size) = step {
        archives += 1
        guard archives < 5 else { fatalError("\(name): the steps do not come to an end") }
        let (body, response) = try await URLSession.shared.data(for: request)
        try Server.check(response, type: "application/zip", body: body)
        guard Int64(body.count) == size else { fatalError("\(name): \(size) bytes were told, \(body.count) came") }
        let archive = pack.root.appendingPathComponent("archive.zip")
        try body.write(to: archive)
        defer { try? FileManager.default.removeItem(at: archive) }
        step = try await pack.install(archive)
    }
    print(name, archives)
}
