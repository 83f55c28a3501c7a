// The parts of CryptoKit that the guide uses, over OpenSSL, for Linux.
import COpenSSL
import Foundation

public protocol Digest: Sequence where Element == UInt8 {}

public struct SHA256Digest: Digest {
    let bytes: [UInt8]
    public func makeIterator() -> Array<UInt8>.Iterator { bytes.makeIterator() }
}

public struct SHA256 {
    private final class Context {
        let raw = EVP_MD_CTX_new()
        init() { EVP_DigestInit_ex(raw, EVP_sha256(), nil) }
        deinit { EVP_MD_CTX_free(raw) }
    }
    private let context = Context()

    public init() {}

    public mutating func update(data: Data) {
        data.withUnsafeBytes { _ = EVP_DigestUpdate(context.raw, $0.baseAddress, $0.count) }
    }

    public func finalize() -> SHA256Digest {
        var bytes = [UInt8](repeating: 0, count: 32)
        EVP_DigestFinal_ex(context.raw, &bytes, nil)
        return SHA256Digest(bytes: bytes)
    }

    public static func hash(data: Data) -> SHA256Digest {
        var hash = SHA256()
        hash.update(data: data)
        return hash.finalize()
    }
}

public enum Curve25519 {
    public enum Signing {
        public struct PublicKey {
            let raw: [UInt8]

            public init(rawRepresentation: Data) throws {
                guard rawRepresentation.count == 32 else { throw CocoaError(.coderInvalidValue) }
                raw = [UInt8](rawRepresentation)
            }

            public func isValidSignature(_ signature: Data, for data: Data) -> Bool {
                let key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nil, raw, raw.count)
                let context = EVP_MD_CTX_new()
                defer {
                    EVP_MD_CTX_free(context)
                    EVP_PKEY_free(key)
                }
                let (signature, data) = ([UInt8](signature), [UInt8](data))
                return EVP_DigestVerifyInit(context, nil, nil, nil, key) == 1
                    && EVP_DigestVerify(context, signature, signature.count, data, data.count) == 1
            }
        }
    }
}
